import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { runCommands, type CommandResult } from './commands.js';
import { chosenKernels, getKernel } from './kernel.js';

if (chosenKernels().includes('6.12'))
  describe('a kernel that is locked down', () => {
    let results: Map<string, CommandResult>;

    before(async () => {
      results = await runCommands(
        await getKernel('6.12'),
        {
          record: ['record', '/tmp/session.skbw', '--duration', '1'],
          doctor: ['doctor', '--json'],
        },
        { parameters: ['lockdown=confidentiality'] },
      );
    });

    test('is not traced, and one line says why', () => {
      const { status, stdout, stderr } = results.get('record')!;
      assert.equal(status, 1);
      assert.equal(stdout, '');
      assert.match(stderr, /^skbwhy: this kernel .*\[nothing-attached\]\n$/);
    });

    test('is examined nevertheless', () => {
      const { status, stdout, stderr } = results.get('doctor')!;
      assert.equal(status, 0, stderr);
      const { pointsUnknown } = JSON.parse(stdout) as { pointsUnknown: string };
      assert.match(pointsUnknown, /^this kernel /);
    });
  });
