import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { build, type Built } from '../bench/build.js';
import { measureExplain } from '../bench/explain.js';
import { measureKernel } from '../bench/kernel.js';
import { Network } from '../bench/network.js';
import { measurePath } from '../bench/path.js';
import { firstEvents, record, type Recording } from '../bench/recording.js';
import { measureRing } from '../bench/ring.js';
import { table, type Figure } from '../bench/statistics.js';

// Bounds are generous: a busy machine must not fail, a step backwards by a factor must.
describe('what tracing costs', () => {
  let built: Built;
  let network: Network;
  let recording: Recording;

  before(async () => {
    built = build();
    network = await Network.create(built);
    recording = await record(built.folder, 1000);
  });
  after(async () => {
    await network?.remove();
    built?.remove();
  });

  test('an event read from the ring by JavaScript: at most 2.5 times what it costs in C', async () => {
    const figures = measureRing(built, await firstEvents(recording, 4096), 9);
    const javascript = find(figures, /^JavaScript, into the same memory, 2000/);
    assert.ok(javascript.ratio!.value.median <= 2.5, table(figures));
  });

  test('an event in the kernel: little when nobody wants it, not many times more when recorded', async () => {
    const figures = await measureKernel(built, network, { rounds: 3, packets: 20_000 });
    for (const figure of figures) {
      const missed = / data, /.test(figure.what);
      assert.ok(figure.value.median <= (missed ? 150 : 3000), table(figures));
      assert.ok(figure.ratio!.value.median <= (missed ? 6 : 100), table(figures));
    }
    assert.equal(figures.filter(({ what }) => / data, /.test(what)).length, 8);
  });

  test('the whole path loses nothing that the ring has room for', async () => {
    const figures = await measurePath(network, built.folder, { rounds: 1, connects: 2000 });
    assert.equal(find(figures, /lost/).value.high, 0, table(figures));
  });

  test('explaining a record: not many times what reading it from a file costs', async () => {
    const figures = await measureExplain(recording, built.folder, 2);
    const cpu = (what: RegExp) =>
      find(
        figures.filter(({ unit }) => unit === 'CPU ns/record'),
        what,
      ).value.median;
    assert.ok(cpu(/^from memory/) <= 20 * cpu(/^read/), table(figures));
  });
});

function find(figures: readonly Figure[], what: RegExp): Figure {
  const found = figures.find((figure) => what.test(figure.what));
  assert.ok(found, `no figure ${what}: ${table(figures)}`);
  return found;
}
