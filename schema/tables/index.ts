export { accounts, tokens } from "./accounts.ts";
export { hardware, models, versions } from "./models.ts";
