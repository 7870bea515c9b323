import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { decodeFact, encodeFact, type DeviceFact, type Fact } from '../../src/event/fact.js';
import { Cursor } from '../../src/event/cursor.js';
import { Explainer } from '../../src/explain/explainer.js';
import type { Report } from '../../src/explain/finding.js';
import { loadFaults } from '../../src/faults/registry.js';
import { openFile } from '../../src/session/file-reader.js';
import type { Batch } from '../../src/session/session.js';

const recorded = (verdict: string): string =>
  fileURLToPath(new URL(`../../../src/faults/${verdict}/session.skbw`, import.meta.url));

/** What the node was made of when its first facts were told. */
interface Told {
  devices: DeviceFact[];
  /** namespace by the end of its name: `client`, `node`, `server` */
  netns(role: string): number;
}

/** The recorded session of a fault (a slow backend), explained with more facts at its beginning. */
async function explainedWith(
  more: (told: Told) => Fact[],
  verdict = 'slow-backend',
): Promise<Report> {
  const session = await openFile(recorded(verdict));
  const batches: Batch[] = [];
  for await (const batch of session) batches.push({ ...batch, bytes: Buffer.from(batch.bytes) });
  await session.close();
  const facts = batches.flatMap(factsOf);
  const told: Told = {
    devices: facts.filter((fact): fact is DeviceFact => fact.fact === 'device'),
    netns(role) {
      const known = facts.find((fact) => fact.fact === 'netns' && fact.name.endsWith(`-${role}`));
      assert.ok(known && 'netns' in known, role);
      return known.netns;
    },
  };
  const { startNs } = session.header.clock;
  const records = more(told).map((fact) => encodeFact(fact, startNs));
  const faults = await loadFaults();
  const explainer = new Explainer(
    session.header,
    faults.map(({ diagnoser }) => diagnoser),
  );
  explainer.feed({ firstSeq: 0, count: records.length, bytes: Buffer.concat(records) });
  for (const batch of batches)
    explainer.feed({ ...batch, firstSeq: batch.firstSeq + records.length });
  explainer.finish();
  return explainer.report();
}

function factsOf({ bytes, firstSeq }: Batch): Fact[] {
  const facts: Fact[] = [];
  const cursor = new Cursor().reset(bytes, firstSeq);
  while (cursor.next()) if (cursor.isFact) facts.push(decodeFact(bytes, cursor.base));
  return facts;
}

const datapath = (netns: number, more: { ipvs?: boolean; cilium?: boolean }): Fact => ({
  ...{ fact: 'datapath', netns, iptablesLegacy: [], nft: [], bridgeNetfilter: null },
  ...{ ipvs: false, cilium: false, flowtables: false, ...more },
});

test('where everything is seen, a slow backend is proved', async () => {
  const { findings } = await explainedWith((told) => [datapath(told.netns('server'), {})]);
  assert.deepEqual(
    findings.map(({ verdict, confidence }) => [verdict, confidence]),
    [['slow-backend', 'proved']],
  );
});

test('with Cilium in the server’s namespace it is possible at most, and says why', async () => {
  const { findings } = await explainedWith((told) => [
    datapath(told.netns('server'), { cilium: true }),
  ]);
  assert.deepEqual(
    findings.map(({ verdict, confidence }) => [verdict, confidence]),
    [['slow-backend', 'possible']],
  );
  assert.match(findings[0]!.loweredFor.join(' '), /may have left .* unseen.*Cilium/);
});

test('with an XDP program at the server’s device, too', async () => {
  const { findings } = await explainedWith((told) =>
    // a device that carries none of the exchange: its index must not be one that is told again
    [{ ...told.devices.find(({ netns }) => netns === told.netns('server'))!, ifindex: 4095 }].map(
      (device) => ({ ...device, name: 'eth9', xdp: { mode: 'native', program: 'lb' } }) as const,
    ),
  );
  assert.equal(findings[0]!.confidence, 'possible');
  assert.match(findings[0]!.loweredFor.join(' '), /At eth9 a program \(lb\) takes packets by XDP/);
});

test('with IPVS there the address may be a Service’s: no verdict, and it is said what hides', async () => {
  const { findings, unexplained } = await explainedWith((told) => [
    datapath(told.netns('server'), { ipvs: true }),
  ]);
  assert.deepEqual(findings, []);
  assert.equal(unexplained.length, 1);
  assert.match(unexplained[0]!.next.join(' '), /IPVS translates Services itself/);
});

test('a packet lost out of sight may have been taken by such a program: the finding names it', async () => {
  const all = ({ devices }: Told): number[] => [...new Set(devices.map(({ netns }) => netns))];
  const { findings } = await explainedWith(
    (told) => all(told).map((netns) => datapath(netns, { cilium: true })),
    'lost-on-the-wire',
  );
  assert.equal(findings[0]!.verdict, 'lost-on-the-wire');
  assert.match(findings[0]!.loweredFor.join(' '), /not all can be seen in .*Cilium/);
});
