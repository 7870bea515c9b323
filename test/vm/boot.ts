/**
 * By hand: `node dist/test/vm/boot.js KERNEL 'SCRIPT' [PARAMETER…]` runs a bash script in a guest with
 * that kernel; ends with the script's status. What it writes to /run/guest/files is in $FILES.
 */
import { runInGuest } from './guest.js';
import { getKernel, type KernelName } from './kernel.js';

const [name = '', script = 'true', ...parameters] = process.argv.slice(2);
const { FILES, TREE, SECONDS = '600' } = process.env;
const kernel = await getKernel(name as KernelName);
const result = await runInGuest(kernel, script, {
  parameters,
  timeoutMs: Number(SECONDS) * 1000,
  ...(FILES === undefined ? {} : { files: FILES }),
  ...(TREE === undefined ? {} : { tree: TREE }),
});
process.stdout.write(result.stdout);
process.stderr.write(result.stderr);
console.error(`${kernel.release}: the command began ${result.bootMs} ms after QEMU`);
process.exitCode = result.status;
