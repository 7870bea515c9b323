import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { addNetns, netnsName, removeNetns } from './probe-lab.js';

const BIN = fileURLToPath(new URL('../../../bin/skbwhy.js', import.meta.url));
/** Process 1 is one of ours, with the names of namespaces; its child has them not, as a container. */
const AS_IN_A_CONTAINER = [
  ...['--pid', '--fork', '--mount', '--mount-proc', '--propagation=private', 'sh', '-c'],
  'unshare --mount --propagation=private sh -c "$0" sh "$@"; exit $?',
  `while umount --recursive --lazy /run/netns 2>/dev/null; do :; done
   test -e "/run/netns/$1" && grep -q " /run/netns/$1 " /proc/self/mountinfo && exit 99
   shift; exec "$@"`,
];

describe('in a container that sees the processes of the node', () => {
  test('namespaces have the names that process 1 knows', () => {
    const name = netnsName('named');
    addNetns(name);
    try {
      const command = [process.execPath, BIN, 'doctor', '--json', '--netns', name];
      const { status, stdout, stderr } = spawnSync(
        'unshare',
        [...AS_IN_A_CONTAINER, name, ...command],
        { encoding: 'utf8' },
      );
      assert.equal(status, 0, stderr);
      assert.equal((JSON.parse(stdout) as { netns: string }).netns, name);
    } finally {
      removeNetns(name);
    }
  });
});
