/** Where compile caches lie in R2, and their end with the version. */
const PREFIX = "compile-caches";

/** Kinds of hardware, accounts and functions of one version; the one that was written longest ago goes first. */
export const COMPILE_CACHES_MAX = 32;

/** `key`: digest of the deployment key, the function and the hardware, made by origins. */
export function compileCacheKey(versionId: string, key: string): string {
  return `${PREFIX}/${versionId}/${key}.tar.gz`;
}

/** Makes room for one more at `key`. */
export async function makeRoomForCompileCache(files: R2Bucket, versionId: string, key: string): Promise<void> {
  const { objects } = await files.list({ prefix: `${PREFIX}/${versionId}/` });
  const others = objects.filter((object) => object.key !== compileCacheKey(versionId, key));
  const oldest = others.toSorted((a, b) => a.uploaded.getTime() - b.uploaded.getTime());
  const surplus = oldest.slice(0, Math.max(0, others.length - (COMPILE_CACHES_MAX - 1)));
  if (surplus.length > 0) await files.delete(surplus.map((object) => object.key));
}

/** One is compiled anew where another repository has a version of equal content. */
export async function removeCompileCaches(files: R2Bucket, versionId: string): Promise<void> {
  for (;;) {
    const { objects } = await files.list({ prefix: `${PREFIX}/${versionId}/` });
    if (objects.length === 0) return;
    await files.delete(objects.map(({ key }) => key));
  }
}
