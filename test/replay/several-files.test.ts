import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import type { Report } from '../../src/explain/finding.js';
import { openFile } from '../../src/session/file-reader.js';
import type { Session, SessionHeader } from '../../src/session/session.js';
import { recordedAt, type Record } from './altered.js';
import { Records } from './records.js';

const KERNELS = new URL('../../../sessions/', import.meta.url);
const files = readdirSync(KERNELS).filter((file) => file.endsWith('.skbw'));

function gist({ findings, unexplained, lost }: Report) {
  const found = findings.map(({ verdict, outcome, confidence, delayMs, subject, attempts }) =>
    JSON.stringify([
      ...[subject.client, verdict, outcome, confidence, delayMs],
      ...attempts.map(({ fate }) => fate),
    ]),
  );
  return { found: found.sort(), unexplained: unexplained.map(({ title }) => title).sort(), lost };
}

const together = async (sessions: readonly Session[]) => gist((await explain(sessions)).report);

function sessionOf(header: SessionHeader, records: readonly Record[], later = 0n): Records {
  const session = new Records(header);
  for (const { bytes } of records) session.push(bytes, -later);
  return session;
}

test('recordings of many machines and times give together what each gives by itself', async () => {
  const open = (file: string) => openFile(fileURLToPath(new URL(file, KERNELS)));
  const found: string[] = [];
  for (const file of files) found.push(...(await together([await open(file)])).found);
  assert.ok(found.length > files.length);
  for (const order of [files, files.toReversed()]) {
    const all = await together(await Promise.all(order.map(open)));
    assert.deepEqual(all.found, found.sort());
    assert.deepEqual(all.unexplained, []);
  }
});

test('one after the other, of one boot: each is explained', async () => {
  const { header, records } = await recordedAt('src/faults/policy-drop/session.skbw');
  const once = await together([sessionOf(header, records)]);
  const later = [0n, 300n, 600n].map((s) => sessionOf(header, records, s * 1_000_000_000n));
  const all = await together(later);
  assert.equal(all.found.length, 3 * once.found.length);
  assert.deepEqual(all.unexplained, []);
});

test('what the end of a file cut in its first moments is no failure, whatever comes later', async () => {
  const { header, records } = await recordedAt('sessions/defect-flannel-xor-mark-healthy.skbw');
  const other = await recordedAt('src/faults/policy-drop/session.skbw');
  const events = records.flatMap(({ point }, i) => (point === null ? [] : i));
  const found = (await together([sessionOf(other.header, other.records)])).found;
  for (const cut of events.slice(0, 30)) {
    const first = sessionOf({ ...header, id: 'cut' }, records.slice(0, cut + 1));
    const { boot, clock } = header;
    const later = BigInt(header.clock.startNs + 60e9 - other.header.clock.startNs);
    const machine = { ...other.header, boot, clock };
    const both = await together([first, sessionOf(machine, other.records, later)]);
    assert.deepEqual(both.unexplained, [], `cut after record ${cut}`);
    assert.equal(both.found.length, found.length);
  }
});

for (const verdict of ['double-snat', 'conntrack-insert-race'] as const)
  test(`${verdict}: cut anywhere into two files, or told by two that overlap, it is the same`, async () => {
    const { header, records } = await recordedAt(`src/faults/${verdict}/session.skbw`);
    const whole = await together([sessionOf(header, records)]);
    assert.ok(whole.found.length > 0);
    const events = records.flatMap(({ point }, i) => (point === null ? [] : i));
    for (const share of [0.1, 0.3, 0.5, 0.7, 0.9]) {
      const cut = events[Math.floor(share * events.length)]!;
      // as the daemon's next file begins: with the facts that stand
      const facts = records.slice(0, cut).filter(({ fact }) => fact !== null && fact !== 'tick');
      const next = [...facts, ...records.slice(cut)];
      const [first, second, all] = [records.slice(0, cut), next, records].map((some, i) =>
        sessionOf({ ...header, id: `file-${i}` }, some),
      );
      assert.deepEqual(await together([first!, second!]), whole, `cut at ${share}`);
      assert.deepEqual(
        await together([first!, all!]),
        whole,
        `ends at ${share}, the other goes on`,
      );
    }
  });
