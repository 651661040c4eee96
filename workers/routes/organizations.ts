/** Organizations and their members. Beyond Replicate's HTTP API. */
import { createRoute, type z } from "@hono/zod-openapi";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import {
  CreateOrganizationSchema,
  MemberPageSchema,
  MemberParams,
  MemberSchema,
  OrganizationPageSchema,
  OrganizationParams,
  OrganizationSchema,
  SetMemberSchema,
  UpdateOrganizationSchema,
} from "../../schema/api/organizations.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { forgetCaller } from "../storage/accounts.ts";
import {
  countMembers,
  countOwned,
  deleteMember,
  findMember,
  findOrganization,
  findPerson,
  insertOrganization,
  listMembers,
  listOrganizations,
  type Member,
  type Organization,
  putMember,
  type Role,
  renameOrganization,
} from "../storage/organizations.ts";
import { allow, json, newRouter } from "./router.ts";

export const organizations = newRouter();
const tags = ["organizations"];
/** Each token of a person carries its organizations in memory. */
const OWNED_MAX = 100;
/** A list of members is one page. */
const MEMBERS_MAX = 1_000;

organizations.openapi(
  createRoute({
    method: "post",
    path: "/v1/organizations",
    tags,
    summary: "Make an organization that you own",
    security: bearer,
    middleware: allow("account:write"),
    request: { body: { required: true, content: json(CreateOrganizationSchema) } },
    responses: { 201: { description: "The organization", content: json(OrganizationSchema) }, ...problems(409) },
  }),
  async (c) => {
    const caller = callerOf(c);
    const wanted = c.req.valid("json");
    if (caller.type !== "user")
      throw new AppError("auth.forbidden", "Only people make organizations: use a token of yours.");
    if ((await countOwned(c.env.DB, caller.account_id)) >= OWNED_MAX) {
      throw new AppError("account.limit_reached", `You own ${OWNED_MAX} organizations, as many as one may.`);
    }
    const made = await insertOrganization(c.env.DB, wanted, caller.account_id, Date.now());
    if (made === null) throw new AppError("account.name_taken", `The username ${wanted.username} is taken.`);
    forgetCaller(caller.token.hash);
    return c.json(show({ ...made, role: "owner" }), 201);
  },
);

organizations.openapi(
  createRoute({
    method: "get",
    path: "/v1/organizations",
    tags,
    summary: "List the organizations that you are in, newest first",
    security: bearer,
    middleware: allow("account:read"),
    responses: { 200: { description: "All of them", content: json(OrganizationPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const rows = await listOrganizations(c.env.DB, callerOf(c).account_id);
    return c.json({ previous: null, next: null, results: rows.map(show) }, 200);
  },
);

organizations.openapi(
  createRoute({
    method: "get",
    path: "/v1/organizations/{username}",
    tags,
    summary: "Get an organization",
    security: bearer,
    middleware: allow("account:read"),
    request: { params: OrganizationParams },
    responses: { 200: { description: "The organization", content: json(OrganizationSchema) }, ...problemResponses },
  }),
  async (c) => c.json(show(await requireOrganization(c.env.DB, callerOf(c), c.req.valid("param").username)), 200),
);

organizations.openapi(
  createRoute({
    method: "patch",
    path: "/v1/organizations/{username}",
    tags,
    summary: "Rename an organization",
    description:
      "What people read changes; the username stays, since addresses of models hold it. Owners and admins may.",
    security: bearer,
    middleware: allow("account:write"),
    request: { params: OrganizationParams, body: { required: true, content: json(UpdateOrganizationSchema) } },
    responses: { 200: { description: "The organization", content: json(OrganizationSchema) }, ...problemResponses },
  }),
  async (c) => {
    const organization = await requireOrganization(c.env.DB, callerOf(c), c.req.valid("param").username);
    c.set("auditAccount", organization.id);
    requireManager(organization);
    const { name } = c.req.valid("json");
    await renameOrganization(c.env.DB, organization.id, name);
    return c.json(show({ ...organization, name }), 200);
  },
);

organizations.openapi(
  createRoute({
    method: "get",
    path: "/v1/organizations/{username}/members",
    tags,
    summary: "List the members of an organization, newest first",
    security: bearer,
    middleware: allow("account:read"),
    request: { params: OrganizationParams },
    responses: { 200: { description: "All of them", content: json(MemberPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { id } = await requireOrganization(c.env.DB, callerOf(c), c.req.valid("param").username);
    const rows = await listMembers(c.env.DB, id);
    return c.json({ previous: null, next: null, results: rows.map(showMember) }, 200);
  },
);

organizations.openapi(
  createRoute({
    method: "get",
    path: "/v1/organizations/{username}/members/{member}",
    tags,
    summary: "Get a member of an organization",
    security: bearer,
    middleware: allow("account:read"),
    request: { params: MemberParams },
    responses: { 200: { description: "The member", content: json(MemberSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { username, member } = c.req.valid("param");
    const { id } = await requireOrganization(c.env.DB, callerOf(c), username);
    return c.json(showMember(await requireMember(c.env.DB, id, member)), 200);
  },
);

organizations.openapi(
  createRoute({
    method: "put",
    path: "/v1/organizations/{username}/members/{member}",
    tags,
    summary: "Add a member to an organization, or change its role",
    description:
      "Owners and admins may; only owners make owners and change those that are. Who manages no more loses the tokens that it made for the organization.",
    security: bearer,
    middleware: allow("account:write"),
    request: { params: MemberParams, body: { required: true, content: json(SetMemberSchema) } },
    responses: { 200: { description: "The member", content: json(MemberSchema) }, ...problems(409) },
  }),
  async (c) => {
    const { username, member } = c.req.valid("param");
    const { role } = c.req.valid("json");
    const organization = await requireOrganization(c.env.DB, callerOf(c), username);
    c.set("auditAccount", organization.id);
    requireManager(organization);
    const known = await findMember(c.env.DB, organization.id, member);
    if (role === "owner" || known?.role === "owner") requireOwner(organization);
    const account_id = await findPerson(c.env.DB, member);
    if (account_id === null) throw noSuchPerson(member);
    if (known === null && (await countMembers(c.env.DB, organization.id)) >= MEMBERS_MAX) {
      throw new AppError("account.limit_reached", `An organization has at most ${MEMBERS_MAX} members.`);
    }
    const isPut = await putMember(c.env.DB, changeOf(organization, account_id), role, Date.now());
    if (!isPut) throw lastOwner(username);
    if (account_id === callerOf(c).account_id) forgetCaller(callerOf(c).token.hash);
    return c.json(showMember(await requireMember(c.env.DB, organization.id, member)), 200);
  },
);

organizations.openapi(
  createRoute({
    method: "delete",
    path: "/v1/organizations/{username}/members/{member}",
    tags,
    summary: "Remove a member from an organization, or leave it",
    description:
      "Owners and admins may remove others, only owners an owner; anyone may leave. The tokens that the member made for the organization are revoked.",
    security: bearer,
    middleware: allow("account:write"),
    request: { params: MemberParams },
    responses: { 204: { description: "It is a member no more" }, ...problems(409) },
  }),
  async (c) => {
    const { username, member } = c.req.valid("param");
    const caller = callerOf(c);
    const organization = await requireOrganization(c.env.DB, caller, username);
    c.set("auditAccount", organization.id);
    const leaves = member === caller.username;
    if (!leaves) requireManager(organization);
    const known = await requireMember(c.env.DB, organization.id, member);
    if (known.role === "owner") requireOwner(organization);
    const account_id = await findPerson(c.env.DB, member);
    if (account_id === null) throw noSuchPerson(member);
    const isGone = await deleteMember(c.env.DB, changeOf(organization, account_id), Date.now());
    if (!isGone) throw lastOwner(username);
    if (leaves) forgetCaller(caller.token.hash);
    return c.body(null, 204);
  },
);

type InRole = Organization & { role: Role };

/**
 * An organization with the caller's role in it; not found where it has none. A token of the organization acts as the person who made it, and the first
 * one, which nobody made, as an owner: it is how an organization that the operator made gets its first members.
 */
async function requireOrganization(db: D1Database, caller: Caller, username: string): Promise<InRole> {
  const isItself = caller.type === "organization" && caller.username === username;
  const person = isItself ? caller.token.created_by : caller.account_id;
  const organization = await findOrganization(db, username, person ?? "");
  const role = isItself && person === null ? "owner" : (organization?.role ?? null);
  if (organization === null || role === null) {
    throw new AppError("account.not_found", `There is no organization ${username.slice(0, 64)} that you are in.`);
  }
  return { ...organization, role };
}

function requireManager({ username, role }: InRole): void {
  if (role !== "member") return;
  throw new AppError("auth.forbidden", `Only owners and admins of ${username} may do this. Ask one of them.`);
}

function requireOwner({ username, role }: InRole): void {
  if (role === "owner") return;
  throw new AppError("auth.forbidden", `Only owners of ${username} make owners or change them. Ask one of them.`);
}

async function requireMember(db: D1Database, organizationId: string, username: string): Promise<Member> {
  const member = await findMember(db, organizationId, username);
  if (member !== null) return member;
  throw new AppError("account.not_found", `${username.slice(0, 64)} is no member of this organization.`);
}

function changeOf(organization: InRole, account_id: string) {
  return { organization_id: organization.id, account_id, may_touch_owners: organization.role === "owner" };
}

function noSuchPerson(username: string): AppError {
  return new AppError("account.not_found", `There is no person of the username ${username.slice(0, 64)}.`);
}

function lastOwner(username: string): AppError {
  const detail = `${username} would have no owner. Make another member an owner first.`;
  return new AppError("organization.last_owner", detail);
}

function show({ username, name, role, created_at }: InRole): z.infer<typeof OrganizationSchema> {
  return { type: "organization", username, name, role, created_at: new Date(created_at).toISOString() };
}

function showMember({ created_at, ...member }: Member): z.infer<typeof MemberSchema> {
  return { ...member, created_at: new Date(created_at).toISOString() };
}
