/** A file as text, in tests alone: Vite knows the suffix, wrangler does not. */
declare module "*?raw" {
  const text: string;
  export default text;
}
