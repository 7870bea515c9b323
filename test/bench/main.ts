/**
 * `npm run bench [-- --json] [-- ring kernel path explain]`: what skbwhy costs on this machine.
 * Needs root and clang, which it installs where it can.
 */
import { spawnSync } from 'node:child_process';
import { arch, cpus, release } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from './build.js';
import { measureExplain } from './explain.js';
import { measureKernel } from './kernel.js';
import { Network } from './network.js';
import { measurePath } from './path.js';
import { firstEvents, record } from './recording.js';
import { measureRing } from './ring.js';
import { table, type Figure } from './statistics.js';

const PARTS = ['ring', 'kernel', 'path', 'explain'];
const SETUP = fileURLToPath(new URL('../../../scripts/setup.js', import.meta.url));

function options(): { json: boolean; parts: string[] } {
  try {
    const { values, positionals } = parseArgs({
      options: { json: { type: 'boolean', default: false } },
      allowPositionals: true,
    });
    const unknown = positionals.find((part) => !PARTS.includes(part));
    if (unknown !== undefined) throw new Error(`there is no part '${unknown}'`);
    return { json: values.json, parts: positionals.length > 0 ? positionals : PARTS };
  } catch (error) {
    console.error(`bench: ${(error as Error).message}; usage: [--json] [${PARTS.join(' | ')}]…`);
    process.exit(2);
  }
}

async function measure(parts: string[]): Promise<Figure[]> {
  const figures: Figure[] = [];
  const built = build();
  let network: Network | null = null;
  try {
    const wants = (part: string) => parts.includes(part);
    const say = (what: string) => process.stderr.write(`bench: ${what}\n`);
    if (wants('kernel') || wants('path')) network = await Network.create(built);
    const recording = wants('ring') || wants('explain') ? await record(built.folder, 20_000) : null;
    if (recording && wants('ring')) {
      say('the ring, from JavaScript and C');
      figures.push(...measureRing(built, await firstEvents(recording, 4096), 31));
    }
    if (network && wants('kernel')) {
      say('events in the kernel');
      figures.push(...(await measureKernel(built, network, { rounds: 9, packets: 100_000 })));
    }
    if (network && wants('path')) {
      say('the whole path');
      figures.push(...(await measurePath(network, built.folder, { rounds: 5, connects: 20_000 })));
    }
    if (recording && wants('explain')) {
      say('session files and their explanation');
      figures.push(...(await measureExplain(recording, built.folder, 7)));
    }
    return figures;
  } finally {
    await network?.remove();
    built.remove();
  }
}

const { json, parts } = options();
if (process.getuid?.() !== 0) {
  console.error('bench: it traces and makes network namespaces: run it as root');
  process.exit(1);
}
const setup = spawnSync(process.execPath, [SETUP, '--test'], { stdio: 'inherit' });
if (setup.status !== 0) process.exit(1);
try {
  const figures = await measure(parts);
  const machine = {
    cpu: cpus()[0]?.model.trim() ?? arch(),
    cpus: cpus().length,
    kernel: release(),
    node: process.versions.node,
  };
  if (json) console.log(JSON.stringify({ machine, figures }, null, 1));
  else
    console.log(
      `${table(figures)}\n\n${machine.cpu}, ${machine.cpus} CPUs, Linux ${machine.kernel}, ` +
        `Node ${machine.node}. Spread: from the first to the last decile of the rounds.`,
    );
} catch (error) {
  console.error(`bench: ${(error as Error).message}`);
  process.exitCode = 1;
}
