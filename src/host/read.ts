import { execFile } from 'node:child_process';
import { statSync } from 'node:fs';

/** At most so many children at once: a node has other work to do. */
const AT_ONCE = 4;
/** A node with tens of thousands of rules prints some megabytes. */
const MAX_OUTPUT = 256 * 1024 * 1024;
/** What takes longer hangs; on a busy emulated machine a tool takes half a minute. */
const TIMEOUT_MS = 60_000;

let running = 0;
const waiting: (() => void)[] = [];

async function slot<T>(work: () => Promise<T>): Promise<T> {
  if (running >= AT_ONCE) await new Promise<void>((resolve) => waiting.push(resolve));
  else running++;
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else running--;
  }
}

/** The section of what was not read in time, where there is such. */
export const LATE = 'unread late';

/** Was a section read, and so everything before it? */
export const isWhole = (sections: ReadonlyMap<string, string>, section: string): boolean =>
  !sections.has(LATE) || sections.has(section);

/** Begins each section in the output of a script: `@@ name`, between bytes that no tool prints. */
const SECTION = '\u001e@@ ';

/** Shell function for scripts given to `readSections`: `section NAME` begins a section. */
const PRELUDE = `export LC_ALL=C; section() { printf '\\n\\036@@ %s\\n' "$1"; }\n`;

/**
 * Runs a shell script inside a network namespace, asynchronously, and gives what it printed by
 * section. null: the namespace is gone (or may not be entered).
 * @param path a file of the namespace (/run/netns/NAME, /proc/PID/ns/net)
 * @param words the script's $1, $2 …
 */
export function readSections(
  path: string,
  script: string,
  ...words: string[]
): Promise<Map<string, string> | null> {
  return slot(async () => {
    const shell = ['/bin/sh', '-c', PRELUDE + script, 'sh', ...words];
    const command = isCurrent(path) ? shell : ['nsenter', `--net=${path}`, '--', ...shell];
    const { stdout, late } = await run(command);
    return stdout.includes(SECTION) ? parseSections(stdout, late) : null;
  });
}

/** @param late the script was ended before it came to its end: its last section may be a part of it */
export function parseSections(output: string, late: boolean): Map<string, string> {
  const parts = output.split(`\n${SECTION}`).slice(1);
  const cut = late ? parts.pop() : undefined;
  const sections = new Map<string, string>();
  for (const part of parts) {
    const end = part.indexOf('\n');
    sections.set(part.slice(0, end), part.slice(end + 1));
  }
  if (cut !== undefined) {
    const [name = ''] = cut.split('\n');
    sections.set(LATE, `${name} and what comes after it: not listed within ${TIMEOUT_MS / 1000} s`);
  }
  return sections;
}

function run([file = '', ...args]: string[]): Promise<{ stdout: string; late: boolean }> {
  return new Promise((resolve) => {
    const options = { maxBuffer: MAX_OUTPUT, timeout: TIMEOUT_MS, encoding: 'utf8' as const };
    // a tool of the script that fails leaves its section empty: what was printed counts, not the status
    execFile(file, args, options, (error, stdout) =>
      resolve({ stdout, late: error?.killed === true }),
    );
  });
}

/** Is it the namespace this process is in? Then nothing needs to be entered. */
function isCurrent(path: string): boolean {
  try {
    const [there, here] = [statSync(path), statSync('/proc/self/ns/net')];
    return there.ino === here.ino && there.dev === here.dev;
  } catch {
    return false;
  }
}
