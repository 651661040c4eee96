/** What origins fetch to make a version start, and what they report of builds. */
import { newRouter } from "./router.ts";

export const originPackages = newRouter();
