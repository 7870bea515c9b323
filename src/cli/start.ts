import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { SkbwhyError, type ErrorCode } from '../event/errors.js';
import { errorLine } from './common.js';
import { daemonCommand } from './daemon.js';
import { replayCommand } from './replay.js';

const EMBEDDED = fileURLToPath(
  new URL('../../../sessions/defect-flannel-63s.skbw', import.meta.url),
);
/** Why a machine cannot trace, as opposed to why a daemon failed. */
const CANNOT_TRACE: readonly ErrorCode[] = [
  'kernel-refused',
  'library-missing',
  'no-btf',
  'no-privilege',
  'not-linux',
  'nothing-attached',
];

/** What `npm start` runs: the daemon where this machine may trace, else a recorded session as if it were live. */
export function startCommand(): Command {
  return new Command('start').action(async () => {
    process.stdout.write(
      'The page is at http://127.0.0.1:6363/ (Ctrl-C ends it). A fault to look at, from another shell: npx skbwhy lab double-snat\n',
    );
    try {
      await daemonCommand().parseAsync([], { from: 'user' });
    } catch (error) {
      if (!(error instanceof SkbwhyError) || !CANNOT_TRACE.includes(error.code)) throw error;
      process.stderr.write(
        `${errorLine(error).line}\nThis machine cannot trace, so here is a recorded session.\n`,
      );
      await replayCommand().parseAsync([EMBEDDED], { from: 'user' });
    }
  });
}
