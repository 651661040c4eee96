/** Tokens, organizations, shares, webhook secrets and deployments. */
import type { z } from "zod";
import type { DeploymentSchema, ReleaseSchema, UpdateDeploymentSchema } from "../api/deployments.ts";
import type { ShareSchema } from "../api/models.ts";
import type { CreateOrganizationSchema, MemberSchema, OrganizationSchema } from "../api/organizations.ts";
import type { CreatedTokenSchema, CreateTokenSchema, TokenSchema } from "../api/tokens.ts";
import type {
  RotatedWebhookSecretSchema,
  TestWebhookSchema,
  WebhookSecretSchema,
  WebhookTestResultSchema,
} from "../api/webhooks.ts";
import type { CallOptions, Http } from "./http.ts";
import { named } from "./runs.ts";

export type Token = z.infer<typeof TokenSchema>;
export type CreatedToken = z.infer<typeof CreatedTokenSchema>;
export type Organization = z.infer<typeof OrganizationSchema>;
export type Member = z.infer<typeof MemberSchema>;
export type Share = z.infer<typeof ShareSchema>;
export type Deployment = z.infer<typeof DeploymentSchema>;
export type Release = z.infer<typeof ReleaseSchema>;

export function tokens(http: Http) {
  const path = (id: string) => `/v1/tokens/${encodeURIComponent(id)}`;
  return {
    /** The token itself is in `token`, this once. */
    create: (request: z.input<typeof CreateTokenSchema>, options: CallOptions = {}) =>
      http.json<CreatedToken>("POST", "/v1/tokens", { ...options, body: request }),
    /** Of an organization where `account` names one. */
    list: (query: { account?: string } = {}, options: CallOptions = {}) =>
      http.pages<Token>("/v1/tokens", { ...options, query: { account: query.account } }),
    get: (id: string, options?: CallOptions) => http.json<Token>("GET", path(id), options),
    revoke: (id: string, options?: CallOptions) => http.json<void>("DELETE", path(id), options),
  };
}

export function organizations(http: Http) {
  const path = (username: string) => `/v1/organizations/${encodeURIComponent(username)}`;
  const member = (username: string, person: string) => `${path(username)}/members/${encodeURIComponent(person)}`;
  return {
    create: (request: z.input<typeof CreateOrganizationSchema>, options: CallOptions = {}) =>
      http.json<Organization>("POST", "/v1/organizations", { ...options, body: request }),
    list: (options?: CallOptions) => http.pages<Organization>("/v1/organizations", options),
    get: (username: string, options?: CallOptions) => http.json<Organization>("GET", path(username), options),
    rename: (username: string, name: string, options: CallOptions = {}) =>
      http.json<Organization>("PATCH", path(username), { ...options, body: { name } }),
    members: (username: string, options?: CallOptions) => http.pages<Member>(`${path(username)}/members`, options),
    /** Adds a person, or changes its role. */
    putMember: (username: string, person: string, role: Member["role"], options: CallOptions = {}) =>
      http.json<Member>("PUT", member(username, person), { ...options, body: { role } }),
    removeMember: (username: string, person: string, options?: CallOptions) =>
      http.json<void>("DELETE", member(username, person), options),
  };
}

/** With whom a private model (`owner/name`) is shared. */
export function shares(http: Http) {
  const path = (model: string) => `/v1/models/${named(model)}/shares`;
  return {
    list: (model: string, options?: CallOptions) => http.pages<Share>(path(model), options),
    put: (model: string, username: string, options?: CallOptions) =>
      http.json<Share>("PUT", `${path(model)}/${encodeURIComponent(username)}`, options),
    remove: (model: string, username: string, options?: CallOptions) =>
      http.json<void>("DELETE", `${path(model)}/${encodeURIComponent(username)}`, options),
  };
}

/** Deployments (`owner/name`): what runs, and every release. */
export function deployments(http: Http) {
  const path = (deployment: string) => `/v1/deployments/${named(deployment)}`;
  return {
    /** With `status`: instances, queue and why. */
    get: (deployment: string, options?: CallOptions) => http.json<Deployment>("GET", path(deployment), options),
    releases: (deployment: string, options?: CallOptions) =>
      http.pages<Release>(`${path(deployment)}/releases`, options),
    /** A new release, where anything changes. */
    update: (deployment: string, change: z.input<typeof UpdateDeploymentSchema>, options: CallOptions = {}) =>
      http.json<Deployment>("PATCH", path(deployment), { ...options, body: change }),
  };
}

export function webhooks(http: Http) {
  return {
    secret: (options?: CallOptions) =>
      http.json<z.infer<typeof WebhookSecretSchema>>("GET", "/v1/webhooks/default/secret", options),
    rotateSecret: (options?: CallOptions) =>
      http.json<z.infer<typeof RotatedWebhookSecretSchema>>("POST", "/v1/webhooks/default/secret/rotate", options),
    /** Calls a receiver with a sample, and tells what it said. */
    test: (request: z.input<typeof TestWebhookSchema>, options: CallOptions = {}) =>
      http.json<z.infer<typeof WebhookTestResultSchema>>("POST", "/v1/webhooks/test", { ...options, body: request }),
  };
}
