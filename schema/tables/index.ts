export { accounts, MEMBER_ROLES, members, tokens } from "./accounts.ts";
export { deployments, releases } from "./deployments.ts";
export {
  builds,
  collectionModels,
  collections,
  examples,
  hardware,
  hardwarePrices,
  models,
  prices,
  shares,
  versions,
} from "./models.ts";
