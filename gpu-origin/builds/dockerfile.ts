/**
 * The Dockerfile of a model and the small files that it needs beside the source. Pure: equal recipes give equal bytes, so BuildKit knows what it has made.
 *
 * Order of the layers, from what seldom changes to what often does: system packages, Python, requirements, the commands of build.run, and last the source:
 * a change of code makes one small layer. uv comes from a stage of its own, is mounted where it is needed, and is no part of the image.
 *
 * What an author writes never becomes an instruction: commands and package names stand in scripts that are mounted, with the shell's own quoting; only
 * values of environment variables and two checked names stand in the Dockerfile. It uses what the frontend of Debian's 20.10 knows, since naming a newer
 * one (`# syntax`) would pull an image.
 */
/** From PyPI, in the build. */
const UV_PIN = "uv==0.13.9";
/** Who the model runs as; an id that no system account of a base image has. */
export const MODEL_UID = 10_001;
export const SOURCE_FOLDER = "/src";
/** What was installed, one pinned package a line. */
export const LOCK_PATH = "/opt/venv/requirements.lock";
export const SERVER_COMMAND = ["python", "-m", "cog.server.http"];
/** Secrets of ours, which no `mounts` of build.run may ask for. */
export const HOST_SECRET = "cogway_host";
export const CA_SECRET = "cogway_ca";
/** Folder of the context that requirements are installed in, with the local files that they name. */
export const REQUIREMENTS_FOLDER = "requirements";
/** Where secrets are mounted unless told otherwise. */
export const SECRETS_FOLDER = "/run/secrets";
/** Parsers of Dockerfiles take lines of less than 64 KiB. */
const ENV_LINE_CHARACTERS_MAX = 32_768;
const BASE_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}$/;
const SECRET_ID_PATTERN = /^[\w.-]{1,128}$/;
/** No comma, quote or blank: it stands in the options of a mount. */
const TARGET_PATTERN = /^\/[\w./@+-]{1,255}$/;

export interface ImageRecipe {
  /** reference of the base image */
  base: string;
  /** such as 3.11, or 3.11.4 for exactly that */
  python: string;
  system_packages: string[];
  /** before the Python packages */
  pre_install: string[];
  /** what pip reads */
  requirements: string;
  /** lines of a constraints file; may be empty */
  constraints: string;
  /** every package with its version: nothing is resolved anew */
  is_locked: boolean;
  /** packages that come with every model: its runtime */
  runtime: string[];
  run: { command: string; mounts: { id: string; target: string }[] }[];
  env: Record<string, string>;
  ref: string;
  train_ref: string | null;
  /** builds of one scope share download caches: one could put bad packages into them; null keeps nothing of what was downloaded */
  cache_scope: string | null;
}

/** A part of the build as its author knows it. */
export interface BuildStep {
  /** stands in BuildKit's name of it, and in no other's */
  mark: string;
  title: string;
  /** of a failure in it */
  code: string;
  /** what an author can do about it */
  advice: string;
}

export interface ImagePlan {
  dockerfile: string;
  /** beside the Dockerfile, in the context */
  files: { path: string; text: string }[];
  steps: BuildStep[];
}

export type ImagePlanResult = { kind: "ready"; plan: ImagePlan } | { kind: "refused"; detail: string };

export function planImage(recipe: ImageRecipe): ImagePlanResult {
  const refusal = refuse(recipe);
  if (refusal !== null) return { kind: "refused", detail: refusal };
  const files: ImagePlan["files"] = [];
  const steps: BuildStep[] = [];
  // Several may use uv's and pip's at the same time, but not apt's.
  const cache = (name: string, target: string, sharing = "shared"): string[] =>
    recipe.cache_scope === null
      ? []
      : [`--mount=type=cache,id=cogway-${recipe.cache_scope}-${name},sharing=${sharing},target=${target}`];
  const host = [HOST_SECRET, CA_SECRET].map((id) => `--mount=type=secret,id=${id}`);
  const uv = "--mount=type=bind,from=uv,source=/opt/uv/bin,target=/opt/uv/bin";
  /** One RUN whose text is a file of the context. */
  const script = (name: string, lines: string[], mounts: string[], step: Omit<BuildStep, "mark">): string => {
    const path = `cogway/${name}.sh`;
    files.push({ path, text: `${["set -e", ...lines].join("\n")}\n` });
    steps.push({ ...step, mark: `/${path}` });
    const bind = `--mount=type=bind,source=${path},target=/${path}`;
    return `RUN ${[bind, ...mounts].join(" ")} sh /${path}`;
  };
  const apt = [
    "export DEBIAN_FRONTEND=noninteractive",
    // Images of Debian remove what was downloaded; the cache keeps it.
    "rm -f /etc/apt/apt.conf.d/docker-clean",
    "apt-get -qq update",
  ];
  const aptCache = [...cache("apt", "/var/cache/apt", "locked"), ...cache("lists", "/var/lib/apt/lists", "locked")];
  const install = "apt-get -qq -o APT::Keep-Downloaded-Packages=true install -y --no-install-recommends";
  const settings = [`if [ -f ${SECRETS_FOLDER}/${HOST_SECRET} ]; then . ${SECRETS_FOLDER}/${HOST_SECRET}; fi`];
  const uvSettings = [
    "export VIRTUAL_ENV=/opt/venv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_NO_PROGRESS=1",
    "export UV_PYTHON_INSTALL_DIR=/opt/python UV_CACHE_DIR=/root/.cache/uv",
  ];

  const uvStage = script(
    "uv",
    [
      ...settings,
      // Images without Python: CUDA's. Debian's python3 has no venv of its own.
      "if ! python3 -m venv /opt/uv; then",
      ...apt.map((line) => `  ${line}`),
      `  ${install} python3 python3-venv`,
      "  python3 -m venv --clear /opt/uv",
      "fi",
      `/opt/uv/bin/python -m pip install --quiet --disable-pip-version-check ${quote(UV_PIN)}`,
    ],
    [...host, ...aptCache, ...cache("pip", "/root/.cache/pip")],
    {
      title: "Fetching uv",
      code: "build.environment",
      advice: "The host must reach a Python package index, and the base image must have Python or apt.",
    },
  );
  const packages = script(
    "system-packages",
    [...apt, `${install} ${recipe.system_packages.map(quote).join(" ")}`],
    aptCache,
    {
      title: "Installing system packages",
      code: "build.system_packages",
      advice: "Correct build.system_packages in cog.yaml.",
    },
  );
  const python = script(
    "python",
    [...settings, ...uvSettings, `/opt/uv/bin/uv venv --quiet --seed --python ${quote(recipe.python)} /opt/venv`],
    [uv, ...host, ...cache("uv", "/root/.cache/uv")],
    {
      title: `Making an environment of Python ${recipe.python}`,
      code: "build.python",
      advice: `Python ${recipe.python} cannot be had here: the base image has another, and no download of it was found. Change build.python_version in cog.yaml, such as to "${minorOf(recipe.python)}", or let the host reach uv's downloads.`,
    },
  );
  const lists = recipe.is_locked
    ? ["--no-deps -r requirements.txt"]
    : [
        ...(recipe.constraints === "" ? [] : ["-c cogway-constraints.txt"]),
        "-r cogway-runtime.txt",
        ...(recipe.requirements.trim() === "" ? [] : ["-r requirements.txt"]),
      ];
  files.push({ path: `${REQUIREMENTS_FOLDER}/requirements.txt`, text: `${recipe.requirements}\n` });
  files.push({ path: `${REQUIREMENTS_FOLDER}/cogway-runtime.txt`, text: `${recipe.runtime.join("\n")}\n` });
  files.push({ path: `${REQUIREMENTS_FOLDER}/cogway-constraints.txt`, text: `${recipe.constraints}\n` });
  const requirements = script(
    "requirements",
    [
      ...settings,
      ...uvSettings,
      `cd /${REQUIREMENTS_FOLDER}`,
      // pip's own rule: the best version of all indexes. A lock names what was resolved, so nothing is looked at again.
      `/opt/uv/bin/uv pip install --index-strategy unsafe-best-match ${lists.join(" ")}`,
      `/opt/uv/bin/uv pip freeze > ${LOCK_PATH}`,
      "python -c 'import cog, coglet'",
    ],
    [
      uv,
      `--mount=type=bind,source=${REQUIREMENTS_FOLDER},target=/${REQUIREMENTS_FOLDER}`,
      ...host,
      ...cache("uv", "/root/.cache/uv"),
    ],
    {
      title: "Installing the requirements",
      code: "build.requirements",
      advice: "Correct the requirements: the lines above say which of them cannot be installed.",
    },
  );
  const command = (name: string, title: string, text: string, secrets: { id: string; target: string }[]): string =>
    script(
      name,
      [...settings, text],
      [
        ...host,
        ...secrets.map(({ id, target }) => `--mount=type=secret,id=${id},target=${target}`),
        ...cache("pip", "/root/.cache/pip"),
      ],
      {
        title,
        code: "build.run",
        advice: "Correct the command in cog.yaml; it runs as root, before the source is there.",
      },
    );
  const before = recipe.pre_install.map((text, index) =>
    command(`pre-install-${index}`, `build.pre_install: ${text}`, text, []),
  );
  const after = recipe.run.map((entry, index) =>
    command(`run-${index}`, `build.run: ${entry.command}`, entry.command, entry.mounts),
  );
  const user = script("user", [`echo 'model:x:${MODEL_UID}:${MODEL_UID}:model:/tmp:/bin/sh' >> /etc/passwd`], [], {
    title: "Making the user of the model",
    code: "build.environment",
    advice: "The base image must have a shell.",
  });
  steps.push({
    mark: `COPY --chown=${MODEL_UID}`,
    title: "Copying the source",
    code: "build.image",
    advice: "The engine's disk may be full.",
  });

  const lines = [
    `FROM ${recipe.base} AS base`,
    "USER root",
    "",
    "FROM base AS uv",
    uvStage,
    "",
    "FROM base AS model",
    env({ PYTHONUNBUFFERED: "1", PYTHONDONTWRITEBYTECODE: "1", NVIDIA_DRIVER_CAPABILITIES: "all" }),
    'ENV PATH="/opt/venv/bin:$PATH"',
    ...(Object.keys(recipe.env).length === 0 ? [] : [env(recipe.env)]),
    user,
    ...(recipe.system_packages.length === 0 ? [] : [packages]),
    python,
    ...before,
    requirements,
    ...after,
    `WORKDIR ${SOURCE_FOLDER}`,
    "EXPOSE 5000",
    env({
      HOME: "/tmp",
      COG_PREDICT_TYPE_STUB: recipe.ref,
      ...(recipe.train_ref === null ? {} : { COG_TRAIN_TYPE_STUB: recipe.train_ref }),
    }),
    `CMD ${JSON.stringify(SERVER_COMMAND)}`,
    `COPY --chown=${MODEL_UID}:${MODEL_UID} source/ ${SOURCE_FOLDER}/`,
    `USER ${MODEL_UID}:${MODEL_UID}`,
  ];
  return { kind: "ready", plan: { dockerfile: `${lines.join("\n")}\n`, files, steps } };
}

/** The step that BuildKit speaks of; null for its own, such as loading the context. */
export function stepOf(plan: ImagePlan, name: string): BuildStep | null {
  return plan.steps.find((step) => name.includes(step.mark)) ?? null;
}

/** What is checked where cog.yaml is read stands here again: this is where it would do harm. */
function refuse(recipe: ImageRecipe): string | null {
  if (!BASE_PATTERN.test(recipe.base)) return `${recipe.base} is no reference of an image.`;
  if (!/^\d+\.\d+(\.\d+)?$/.test(recipe.python)) return `Python ${recipe.python}: a version such as 3.11 is needed.`;
  if (recipe.cache_scope !== null && !/^[a-z0-9]{1,64}$/.test(recipe.cache_scope))
    return `${recipe.cache_scope} is no scope of caches.`;
  for (const { mounts } of recipe.run) {
    for (const { id, target } of mounts) {
      if (!SECRET_ID_PATTERN.test(id) || id === HOST_SECRET || id === CA_SECRET)
        return `build.run: a secret cannot be named ${id}.`;
      if (!TARGET_PATTERN.test(target)) return `build.run: ${target} cannot be the target of a secret.`;
    }
  }
  const variables = { ...recipe.env, COG_PREDICT_TYPE_STUB: recipe.ref, COG_TRAIN_TYPE_STUB: recipe.train_ref ?? "" };
  for (const [name, value] of Object.entries(variables)) {
    if (!/^[A-Za-z_]\w*$/.test(name)) return `environment: ${name} is no name of a variable.`;
    if (/[\n\r\0]/.test(value)) return `environment: ${name} has a line break, which an image cannot carry.`;
    if (value.length > ENV_LINE_CHARACTERS_MAX)
      return `environment: ${name} is longer than ${ENV_LINE_CHARACTERS_MAX} characters.`;
  }
  const commands = [...recipe.pre_install, ...recipe.run.map((entry) => entry.command), ...recipe.system_packages];
  if (commands.some((text) => text.includes("\0"))) return "build: a command has a NUL character.";
  return null;
}

function minorOf(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}

/** For the shell: nothing between single quotes means anything. */
function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** One ENV instruction for each, so that a line stays short. In double quotes only these three mean something. */
function env(variables: Record<string, string>): string {
  return Object.entries(variables)
    .map(([name, value]) => `ENV ${name}="${value.replace(/[\\"$]/g, "\\$&")}"`)
    .join("\n");
}
