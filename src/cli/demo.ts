import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { SkbwhyError, type ErrorCode } from '../event/errors.js';
import { loadFaults } from '../faults/registry.js';
import { openFile } from '../session/file-reader.js';
import { errorLine } from './common.js';
import { runLab } from './lab.js';
import { explain } from './main-path.js';
import { print } from './output.js';

const VERDICT = 'double-snat';
/** Why a machine cannot trace, as opposed to why a lab failed. */
const CANNOT_TRACE: readonly ErrorCode[] = [
  'kernel-refused',
  'library-missing',
  'no-btf',
  'no-lab',
  'no-privilege',
  'not-linux',
  'nothing-attached',
];

/** What `npm start` shows: the main job once, live where this machine may trace. */
export function demoCommand(): Command {
  return new Command('demo').action(async () => {
    const fault = (await loadFaults()).find(({ verdict }) => verdict === VERDICT)!;
    process.stderr.write(
      'skbwhy lab double-snat: makes the fault in namespaces of its own, traces it, explains it (a few seconds).\n\n',
    );
    try {
      process.exitCode = await runLab(fault, [], {});
    } catch (error) {
      if (!(error instanceof SkbwhyError) || !CANNOT_TRACE.includes(error.code)) throw error;
      process.stderr.write(
        `${errorLine(error).line}\nThis machine cannot trace, so here is a recorded session explained:\n\n`,
      );
      const file = new URL(`../../../src/faults/${VERDICT}/session.skbw`, import.meta.url);
      const session = await openFile(fileURLToPath(file));
      print(await explain([session]), 'text');
      await session.close();
    }
  });
}
