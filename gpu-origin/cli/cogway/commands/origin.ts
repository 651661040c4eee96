/** `cogway origin`: the hosts of a platform, as its operator adds, empties and removes them. */
import { Command } from "commander";
import type { z } from "zod";
import type { InvitedOriginSchema, OriginSchema } from "../../../../schema/api/admin.ts";
import { action, type CommonOptions, newCommand, type Runner } from "../command.ts";
import { table } from "../terminal.ts";

const PATH = "/admin/v1/origins";
type Origin = z.infer<typeof OriginSchema>;

export function originCommand(runner: Runner): Command {
  const origin = new Command("origin")
    .description("Add, list, drain and remove the hosts that run models (scope admin)")
    .addHelpText(
      "after",
      "\nExamples:\n  $ cogway origin add\n  $ cogway origin ls\n  $ cogway origin drain 4q2m…\n\nEach takes --json.",
    );
  const add = newCommand("add", "Make a join token for one more host", ["cogway origin add"]).action(
    action<[], CommonOptions>(runner, async ({ http, terminal, connection }) => {
      const invited = await http.json<z.infer<typeof InvitedOriginSchema>>("POST", PATH);
      terminal.answer(invited, () =>
        [
          `Start gpu-origin on the new host, until ${invited.expires_at}:`,
          "",
          `  COGWAY_EDGE_URL=${connection.url} COGWAY_ORIGIN_URL=https://ITS-TUNNEL COGWAY_JOIN_TOKEN=${invited.join_token} npm exec -- node gpu-origin/main.ts`,
        ].join("\n"),
      );
    }),
  );
  const list = newCommand("ls", "List the origins", ["cogway origin ls"]).action(
    action<[], CommonOptions>(runner, async ({ http, terminal }) => {
      const origins: Origin[] = [];
      for await (const origin of http.pages<Origin>(PATH)) origins.push(origin);
      terminal.answer({ origins }, () => originTable(origins) || "There is no origin. cogway origin add");
    }),
  );
  const remove = newCommand("rm", "Remove an origin and revoke its keys", ["cogway origin rm 4q2m…"])
    .argument("<id>", "the origin's id")
    .action(
      action<[string], CommonOptions>(runner, async ({ http, terminal }, id) => {
        await http.json("DELETE", `${PATH}/${encodeURIComponent(id)}`);
        terminal.answer({ removed: id }, () => `Removed ${id}; its keys are refused from now on.`);
      }),
    );
  const drains = (["drain", "undrain"] as const).map((name) =>
    newCommand(name, name === "drain" ? "Send nothing new there" : "Let it take new work again", [
      `cogway origin ${name} 4q2m…`,
    ])
      .argument("<id>", "the origin's id")
      .action(
        action<[string], CommonOptions>(runner, async ({ http, terminal }, id) => {
          const now = await http.json<Origin>("POST", `${PATH}/${encodeURIComponent(id)}/${name}`);
          terminal.answer(now, () => `${now.id} is ${now.state}, with ${now.instances} instances`);
        }),
      ),
  );
  for (const command of [add, list, ...drains, remove]) origin.addCommand(command);
  return origin;
}

function originTable(origins: Origin[]): string {
  return table(
    origins.map(({ id, state, driver, region, url, instances, hardware }) => [
      id,
      state,
      driver,
      region,
      hardware.map(({ sku }) => sku).join(","),
      `${instances} instances`,
      url,
    ]),
  );
}
