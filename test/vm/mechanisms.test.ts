import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Mechanism, PlanEntry, PointName } from '../../src/event/point.js';
import type { Finding } from '../../src/explain/finding.js';
import type { LabReport } from '../live/skbwhy.js';
import { runCommands, type CommandResult } from './commands.js';
import { chosenKernels, getKernel } from './kernel.js';
import { CHOSEN } from './labs.js';
import { writeMatrix, type MatrixRow } from './matrix.js';

/** Kernels that take programs at functions, and what each is traced by, besides all that it has. */
const KERNELS = {
  '5.10': [['tracepoint']],
  '6.1': [['tracepoint']],
  '6.12': [['tracepoint'], ['tracepoint', 'fentry']],
} as const satisfies Record<string, readonly (readonly Mechanism[])[]>;

const ALL_AT_FUNCTIONS = {
  'conntrack.insert': 'fentry',
  'conntrack.delete': 'fentry',
  'checksum.fill': 'fentry',
  'checksum.verify': 'fentry',
} as const;

/** What each of them sees at functions, and how. 5.10 has no type information of modules. */
const AT_FUNCTIONS: Record<keyof typeof KERNELS, Partial<Record<PointName, Mechanism>>> = {
  '5.10': {
    'conntrack.insert': 'kprobe',
    'conntrack.delete': 'kprobe',
    'checksum.fill': 'fentry',
    'checksum.verify': 'fentry',
  },
  '6.1': {
    ...ALL_AT_FUNCTIONS,
    'mark.set': 'fentry',
    'nat.setup': 'fentry',
    'nat.rewrite': 'fentry',
  },
  '6.12': ALL_AT_FUNCTIONS,
};

const LABS = ['double-snat', 'conntrack-reply-collision'] as const;
const ALL = 'all';

const rows: MatrixRow[] = [];
after(() => {
  if (process.env['SKBWHY_EXPECT'] === 'write') writeMatrix(rows);
});

for (const [name, sets] of Object.entries(KERNELS))
  if ((chosenKernels() as string[]).includes(name) && !CHOSEN)
    describe(`whatever kernel ${name} is traced by`, () => {
      let results: Map<string, CommandResult>;
      const nameOf = (lab: string, set: readonly Mechanism[] | null) =>
        `${lab}-${set?.join('-') ?? ALL}`;

      before(async () => {
        const commands: Record<string, string[]> = {};
        for (const lab of LABS)
          for (const set of [null, ...sets])
            commands[nameOf(lab, set)] = [
              ...['lab', lab, '--json'],
              ...(set === null ? [] : ['--mechanisms', ...set]),
            ];
        // the labs load the modules whose functions are hooked
        commands['doctor'] = ['doctor', '--json', '--cost', '2'];
        results = await runCommands(await getKernel(name as keyof typeof KERNELS), commands);
      });

      function output<T>(command: string): T {
        const { status, stdout, stderr } = results.get(command)!;
        assert.equal(status, 0, stderr);
        return JSON.parse(stdout) as T;
      }

      function finding(lab: string, set: readonly Mechanism[] | null): Finding {
        const report = output<LabReport>(nameOf(lab, set));
        if (set !== null) rows.push({ kernel: name, lab, report, part: true });
        assert.deepEqual(report.lost, { ring: 0, missed: 0, exchanges: 0 });
        assert.equal(report.findings.length, 1);
        return report.findings[0]!;
      }

      test('functions are hooked where the kernel takes it', () => {
        const { points } = output<{ points: PlanEntry[] }>('doctor');
        const expected = AT_FUNCTIONS[name as keyof typeof KERNELS];
        for (const { point, mechanism } of points)
          if (point in expected) assert.equal(mechanism, expected[point], point);
        const rewrite = points.find(({ point }) => point === 'nat.rewrite')!;
        assert.equal(rewrite.where.includes('nf_nat_manip_pkt()'), name !== '5.10');
      });

      for (const lab of LABS)
        for (const set of sets)
          test(`${lab} by ${set.join(' and ')}: the same verdict and attempts`, () => {
            const whole = finding(lab, null);
            const part = finding(lab, set);
            assert.equal(part.verdict, whole.verdict);
            assert.equal(part.defect, whole.defect);
            assert.equal(part.outcome, whole.outcome);
            if (name === '5.10' && lab === 'conntrack-reply-collision')
              assert.match(
                JSON.stringify(whole.chain),
                /__nf_conntrack_confirm was seen to return/,
              );
            const fates = (of: Finding) => of.attempts.map(({ fate }) => fate);
            assert.deepEqual(fates(part), fates(whole));
            assert.ok(part.chain.every(({ evidence }) => evidence.length > 0));
          });
    });
