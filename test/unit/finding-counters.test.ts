import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { counterMeaning } from '../../src/event/counters.js';
import { countersRisen } from '../../src/explain/counters.js';
import { World } from '../../src/explain/world.js';

const SECOND = 1e9;

/** A world in which namespaces were sampled: second, namespace, counters that changed. */
function sampled(...samples: [number, number, Record<string, number>][]): World {
  const world = new World();
  for (const [seq, [second, netns, values]] of samples.entries())
    world.learn({ fact: 'counters', netns, values }, second * SECOND, { session: 's', seq });
  return world;
}

const risen = (world: World, from: number, to: number, ...netns: number[]) =>
  countersRisen(
    netns.map((one) => ({ world, netns: one })),
    from * SECOND,
    to * SECOND,
  );

suite('counters that rose while an exchange lasted', () => {
  const world = sampled(
    [1, 7, { 'conntrack.drop': 3, 'Ip.InReceives': 9, 'softnet.dropped': 1 }],
    [1, 8, { 'softnet.dropped': 1 }],
    [2, 7, { 'Ip.InReceives': 20 }],
    [4, 7, { 'conntrack.drop': 5, 'Ip.InReceives': 30, 'softnet.dropped': 4 }],
    [4, 8, { 'softnet.dropped': 4, 'Udp.NoPorts': 1 }],
    [9, 7, { 'conntrack.drop': 50 }],
  );

  test('from the last sample before to the first after, with both as evidence', () => {
    assert.deepEqual(risen(world, 2.5, 3, 7)[0], {
      name: 'conntrack.drop',
      meaning: counterMeaning('conntrack.drop')!.meaning,
      netns: 'netns 7',
      from: 3,
      to: 5,
      rise: 2,
      betweenMs: [-500, 1500],
      evidence: [
        { session: 's', seq: 2 },
        { session: 's', seq: 3 },
      ],
    });
  });

  test('traffic as such is not told, and a count of the whole node only once', () => {
    assert.deepEqual(
      risen(world, 2.5, 3, 7, 8).map(({ name, netns }) => [name, netns]),
      [
        ['conntrack.drop', 'netns 7'],
        ['softnet.dropped', null],
        ['Udp.NoPorts', 'netns 8'],
      ],
    );
  });

  test('what rose before or after is not told, nor a namespace that it did not pass', () => {
    assert.deepEqual(risen(world, 1.2, 1.4, 7), []);
    assert.deepEqual(
      risen(world, 4.5, 5, 7).map(({ rise }) => rise),
      [45],
    );
    assert.deepEqual(risen(world, 2.5, 3, 9), []);
  });

  test('of a long history the oldest samples become the base: what they counted is no rise', () => {
    const long = sampled(
      [1, 7, {}],
      [2, 7, { 'Udp.NoPorts': 1000 }],
      ...Array.from({ length: 400 }, (_, i): [number, number, Record<string, number>] => [
        3 + i,
        7,
        { 'conntrack.drop': i },
      ]),
    );
    assert.deepEqual(
      risen(long, 0, 500, 7).map(({ name, to }) => [name, to]),
      [['conntrack.drop', 399]],
    );
  });
});
