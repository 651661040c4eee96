/** A stylesheet under a package's export name, without an ending that would tell the compiler what it is. */
declare module "@cloudflare/kumo/styles/standalone";
