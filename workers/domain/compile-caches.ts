/** Where compile caches lie in R2, and their end with the version. */
const PREFIX = "compile-caches";

/** `key`: digest of the deployment key, the function and the hardware, made by origins. */
export function compileCacheKey(versionId: string, key: string): string {
  return `${PREFIX}/${versionId}/${key}.tar.gz`;
}

/** One is compiled anew where another repository has a version of equal content. */
export async function removeCompileCaches(files: R2Bucket, versionId: string): Promise<void> {
  for (;;) {
    const { objects } = await files.list({ prefix: `${PREFIX}/${versionId}/` });
    if (objects.length === 0) return;
    await files.delete(objects.map(({ key }) => key));
  }
}
