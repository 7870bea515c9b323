import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { TOLD_BY_OTHERS, type PlanEntry } from '../../src/event/point.js';
import { leaveOut, programsOf } from '../../src/probe/plan.js';
import { POINT_HOOKS } from '../../src/probe/points.js';

/** The line of the plan for a point's hook of that kind, and what is beside it. */
function entryOf(point: string, mechanism: string): PlanEntry {
  const { hooks, also, ...known } = POINT_HOOKS.find((each) => each.point === point)!;
  const hook = hooks.find((each) => each.mechanism === mechanism)!;
  const where = [hook, ...(also ? [also] : [])].map((each) => each.where).join('; ');
  return { point: known.point, mechanism: hook.mechanism, where };
}

test('points without hooks are those that others tell of', () =>
  assert.deepEqual(
    new Set(POINT_HOOKS.flatMap(({ point, hooks }) => (hooks.length === 0 ? point : []))),
    TOLD_BY_OTHERS,
  ));

describe('a program that could not be attached', () => {
  for (const [mechanism, program] of [
    ['fentry', 'conntrack_delete'],
    ['kprobe', 'conntrack_delete_entry'],
  ] as const)
    test(`leaves its point without a hook: ${mechanism}`, () => {
      const entries = [entryOf('conntrack.delete', mechanism)];
      leaveOut(entries, program, 'somebody has it');
      assert.deepEqual(entries, [
        { point: 'conntrack.delete', mechanism: null, where: '', reason: 'somebody has it' },
      ]);
    });

  test('leaves a point what else it is seen by', () => {
    const entry = entryOf('nat.rewrite', 'netfilter');
    const [around = '', atTheFunction] = entry.where.split('; ');
    assert.equal(atTheFunction, 'nf_nat_manip_pkt()');
    leaveOut([entry], 'rewrite_after', 'somebody has it');
    // the other half of the pair goes too
    assert.deepEqual([...programsOf([entry])], ['netfilter_before', 'netfilter_after']);
    assert.deepEqual(entry, {
      point: 'nat.rewrite',
      mechanism: 'netfilter',
      where: around,
      reason: 'somebody has it',
    });
  });
});
