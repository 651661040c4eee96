/**
 * The session that BuildKit calls its client back on: gRPC over one hijacked connection. It asks for secrets here, which therefore are part of no build
 * argument, layer or cache key, and looks after the session's health each second. Everything else it asks for is answered as not implemented.
 */
import { randomUUID } from "node:crypto";
import { Duplex } from "node:stream";
import {
  Server,
  ServerCredentials,
  type ServiceDefinition,
  status,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import type Docker from "dockerode";
import protobuf from "protobufjs";
import { z } from "zod";
import { dial } from "./engine-call.ts";

/** BuildKit's own bound of a secret. */
export const SECRET_BYTES_MAX = 500 * 1024;

const proto = protobuf.Root.fromJSON({
  nested: {
    // moby.buildkit.secrets.v1
    GetSecretRequest: { fields: { ID: { type: "string", id: 1 } } },
    GetSecretResponse: { fields: { data: { type: "bytes", id: 1 } } },
    // grpc.health.v1; status 1 is SERVING
    HealthCheckRequest: { fields: { service: { type: "string", id: 1 } } },
    HealthCheckResponse: { fields: { status: { type: "int32", id: 1 } } },
    // moby.filesync.v1.Auth: no credentials are the answer to all
    CredentialsRequest: { fields: { Host: { type: "string", id: 1 } } },
    CredentialsResponse: { fields: { Username: { type: "string", id: 1 }, Secret: { type: "string", id: 2 } } },
  },
});

function method(path: string, request: string, response: string): ServiceDefinition[string] {
  const requestType = proto.lookupType(request);
  const responseType = proto.lookupType(response);
  return {
    path,
    requestStream: false,
    responseStream: false,
    requestSerialize: (value: object) => Buffer.from(requestType.encode(requestType.create(value)).finish()),
    requestDeserialize: (bytes: Buffer) => requestType.decode(bytes),
    responseSerialize: (value: object) => Buffer.from(responseType.encode(responseType.create(value)).finish()),
    responseDeserialize: (bytes: Buffer) => responseType.decode(bytes),
  };
}

const METHODS = {
  secret: "/moby.buildkit.secrets.v1.Secrets/GetSecret",
  health: "/grpc.health.v1.Health/Check",
  credentials: "/moby.filesync.v1.Auth/Credentials",
};
const SERVICE: ServiceDefinition = {
  secret: method(METHODS.secret, "GetSecretRequest", "GetSecretResponse"),
  health: method(METHODS.health, "HealthCheckRequest", "HealthCheckResponse"),
  credentials: method(METHODS.credentials, "CredentialsRequest", "CredentialsResponse"),
};
const SecretRequestSchema = z.object({ ID: z.string() });

function handlers(secrets: ReadonlyMap<string, Buffer>): UntypedServiceImplementation {
  return {
    secret(call: { request: unknown }, callback: (error: object | null, value?: object) => void): void {
      const request = SecretRequestSchema.safeParse(call.request);
      const data = request.success ? secrets.get(request.data.ID) : undefined;
      if (data === undefined) callback({ code: status.NOT_FOUND, details: "there is no such secret" });
      else callback(null, { data });
    },
    health: (_call: unknown, callback: (error: null, value: object) => void): void => callback(null, { status: 1 }),
    credentials: (_call: unknown, callback: (error: null, value: object) => void): void => callback(null, {}),
  };
}

export interface BuildSession {
  id: string;
  close(): void;
}

/** Opens a session that gives `secrets` by their ids. Throws where the engine knows no sessions. */
export async function openSession(docker: Docker, secrets: ReadonlyMap<string, Buffer>): Promise<BuildSession> {
  const id = randomUUID();
  const socket = await dial(docker, {
    method: "POST",
    path: "/session",
    hijack: true,
    headers: {
      Upgrade: "h2c",
      "X-Docker-Expose-Session-Uuid": id,
      "X-Docker-Expose-Session-Name": "cogway",
      "X-Docker-Expose-Session-Grpc-Method": Object.values(METHODS),
    },
    statusCodes: { 101: true, 200: true, 500: "server error" },
  });
  if (!(socket instanceof Duplex)) throw new Error("the engine opens no sessions");
  socket.on("error", () => {});
  const server = new Server();
  server.addService(SERVICE, handlers(secrets));
  server.createConnectionInjector(ServerCredentials.createInsecure()).injectConnection(socket);
  return {
    id,
    close(): void {
      server.forceShutdown();
      socket.destroy();
    },
  };
}
