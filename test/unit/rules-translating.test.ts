import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseIptables } from '../../src/host/rules/iptables.js';
import { parseNft } from '../../src/host/rules/nft.js';
import { sourceNatRules } from '../../src/host/rules/translating.js';

const iptables = async (...lines: string[]) =>
  sourceNatRules(
    await parseIptables(
      ['*nat', ':POSTROUTING ACCEPT [0:0]', ':OUTPUT ACCEPT [0:0]', ':SUB - [0:0]', ...lines].join(
        '\n',
      ),
      'iptables-legacy',
      'ip',
    ),
  );

suite('rules that translate sources', () => {
  test('are told with their conditions, ports and whether they choose at random', async () => {
    const found = await iptables(
      '-A POSTROUTING -d 10.0.0.2/32 -j SUB',
      '-A SUB -p tcp -j MASQUERADE --to-ports 4000-4007',
      '-A POSTROUTING -o eth0 -j SNAT --to-source 192.0.2.1:5000-6000 --random',
      '-A POSTROUTING -j MASQUERADE --random-fully',
    );
    assert.deepEqual(
      found.map(({ chain, ports, random }) => ({ chain, ports, random })),
      [
        { chain: 'SUB', ports: [4000, 4007], random: false },
        { chain: 'POSTROUTING', ports: [5000, 6000], random: true },
        { chain: 'POSTROUTING', ports: null, random: true },
      ],
    );
    const destination = String((10 << 24) + 2);
    assert.deepEqual(found[0]!.when, [
      { match: 'family', family: 'ip', negated: false },
      { match: 'destination', values: [[destination, destination]], negated: false },
      { match: 'protocol', values: [['6', '6']], negated: false },
    ]);
    assert.equal(found[0]!.text, '-A SUB -p tcp -j MASQUERADE --to-ports 4000-4007');
  });

  test('of other hooks, or in chains that nothing leads to, are not told', async () => {
    assert.deepEqual(await iptables('-A OUTPUT -j ACCEPT', '-A SUB -j MASQUERADE'), []);
  });

  test('of nft are told too', () => {
    const ruleset = JSON.stringify({
      nftables: [
        { table: { family: 'inet', name: 't', handle: 1 } },
        {
          chain: {
            ...{ family: 'inet', table: 't', name: 'post', handle: 1, type: 'nat' },
            ...{ hook: 'postrouting', prio: 100, policy: 'accept' },
          },
        },
        {
          rule: {
            ...{ family: 'inet', table: 't', chain: 'post', handle: 7 },
            expr: [{ masquerade: { port: { range: [40000, 40007] } } }],
          },
        },
      ],
    });
    const [rule, ...more] = sourceNatRules(parseNft(ruleset, '', new Set()));
    assert.deepEqual(more, []);
    assert.deepEqual(
      [rule?.backend, rule?.ports, rule?.random, rule?.when],
      ['nft', [40000, 40007], false, []],
    );
  });
});
