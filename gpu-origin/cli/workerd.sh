#!/bin/sh
# Starts workerd for the launcher. It first writes the process's id and start mark (processes.ts), so that workerd never runs without a file that tells so;
# and Ctrl-C, which a terminal sends to the whole group, is not for workerd: the launcher ends it once the origin has drained.
record() { # the fields of /proc/<pid>/stat from the third on
  read -r boot </proc/sys/kernel/random/boot_id
  echo "$$ $boot/${20}" >"$COGWAY_WORKERD_PID_FILE"
}
trap '' INT HUP
if [ -r "/proc/$$/stat" ]; then
  read -r stat <"/proc/$$/stat"
  record ${stat##*) }
fi
exec "$COGWAY_WORKERD" "$@"
