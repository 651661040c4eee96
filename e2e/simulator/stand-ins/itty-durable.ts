/** The run counters are no part of what is simulated: what is told to them goes through the same stubs as all calls, to an object that takes everything. */
export function createDurable(): unknown {
  return class {};
}

export function proxyDurable(namespace: { getByName(name: string): unknown }): { get(name: string): unknown } {
  return { get: (name) => namespace.getByName(name) };
}
