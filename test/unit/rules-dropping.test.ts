import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { droppingRules } from '../../src/host/rules/dropping.js';
import { parseIptables } from '../../src/host/rules/iptables.js';
import { parseNft } from '../../src/host/rules/nft.js';

const iptables = async (...lines: string[]) =>
  droppingRules(
    await parseIptables(
      ['*filter', ':INPUT ACCEPT [0:0]', ':FORWARD DROP [0:0]', ':SUB - [0:0]', ...lines].join(
        '\n',
      ),
      'iptables-legacy',
      'ip',
    ),
  );

suite('rules that drop or reject', () => {
  test('are told with every condition on the way to them, policies last', async () => {
    const found = await iptables(
      '-A FORWARD -i eth0 -j SUB',
      '-A SUB -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset',
    );
    assert.deepEqual(
      found.map(({ chain, hook, action, policy }) => ({ chain, hook, action, policy })),
      [
        { chain: 'SUB', hook: 'forward', action: 'reject', policy: undefined },
        { chain: 'FORWARD', hook: 'forward', action: 'drop', policy: true },
      ],
    );
    assert.deepEqual(found[0]!.when, [
      { match: 'family', family: 'ip', negated: false },
      { match: 'iif', names: ['eth0'], negated: false },
      { match: 'protocol', values: [['6', '6']], negated: false },
      { match: 'dport', values: [['80', '80']], negated: false },
    ]);
    assert.equal(found[0]!.handle, 1);
  });

  test('one that is reached from two places stands there twice, one that is not, never', async () => {
    const found = await iptables('-A INPUT -j SUB', '-A FORWARD -j SUB', '-A SUB -j DROP');
    assert.deepEqual(
      found.map(({ hook, chain }) => `${hook} ${chain}`),
      ['input SUB', 'forward SUB', 'forward FORWARD'],
    );
    assert.deepEqual(
      (await iptables('-A SUB -j DROP')).map(({ chain }) => chain),
      ['FORWARD'],
    );
  });

  test('behind a rule that returns they may be led around', async () => {
    const [rule] = await iptables(
      '-A INPUT -j SUB',
      '-A SUB -s 10.0.0.1 -j RETURN',
      '-A SUB -j DROP',
    );
    assert.equal(rule?.skippable, true);
  });

  test('chains that lead in circles end', async () => {
    assert.ok((await iptables('-A INPUT -j SUB', '-A SUB -j SUB', '-A SUB -j DROP')).length > 0);
  });

  test('a verdict map of nft that drops for some is a rule with what it drops as its condition', () => {
    const chain = { family: 'inet', table: 't', name: 'in', handle: 1 };
    const base = { type: 'filter', hook: 'input', prio: 0, policy: 'accept' };
    const vmap = {
      vmap: {
        key: { ct: { key: 'state' } },
        data: {
          set: [
            ['established', { accept: null }],
            ['invalid', { drop: null }],
          ],
        },
      },
    };
    const nftables = [
      { table: { family: 'inet', name: 't', handle: 1 } },
      { chain: { ...chain, ...base } },
      { rule: { family: 'inet', table: 't', chain: 'in', handle: 4, expr: [vmap] } },
    ];
    const listing =
      'table inet t {\n\tchain in {\n\t\tct state vmap { established : accept, invalid : drop } # handle 4\n\t}\n}\n';
    const [rule] = droppingRules(parseNft(JSON.stringify({ nftables }), listing, new Set()));
    assert.equal(rule?.handle, 4);
    assert.deepEqual(rule.when, [{ match: 'ctstate', states: ['INVALID'], negated: false }]);
  });
});
