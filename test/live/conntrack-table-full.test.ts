import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { assertNoticed, onlyFinding, runLab } from './skbwhy.js';

const LIMIT = '/proc/sys/net/netfilter/nf_conntrack_max';

describe('a full conntrack table, on this kernel', () => {
  const limit = readFileSync(LIMIT, 'utf8');

  test('a query without room for its entry is dropped: who fills the table is named', async () => {
    const report = await runLab('conntrack-table-full');
    const finding = onlyFinding(report);
    assert.equal(finding.verdict, 'conntrack-table-full');
    assert.equal(finding.confidence, 'proved');
    assert.equal(finding.outcome, 'recovered');
    assert.deepEqual(report.unexplained, []);
    assert.match(finding.summary, /\(420 entries where 400 fit\).* for 10\.244\.2\.2 \(420\)/);
    const slow = report.clients.find(({ purpose }) => purpose === 'lookup');
    assertNoticed(slow?.connectMs, finding);
    const [lost, again] = finding.attempts;
    assert.equal(lost?.dropReason, 'NETFILTER_DROP');
    assert.equal(again?.fate, 'delivered');
    assert.equal(readFileSync(LIMIT, 'utf8'), limit);
  });

  test('with room for all nothing is found', async () => {
    const report = await runLab('conntrack-table-full', { held: 300 });
    assert.deepEqual(report.findings, []);
    assert.deepEqual(report.unexplained, []);
    assert.equal(readFileSync(LIMIT, 'utf8'), limit);
  });
});
