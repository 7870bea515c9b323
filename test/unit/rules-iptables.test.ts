import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseIptables, split } from '../../src/host/rules/iptables.js';
import type { Rule } from '../../src/host/rules/model.js';
import { only, prefix } from '../../src/host/rules/ranges.js';

async function rule(line: string): Promise<Rule> {
  const text = `*nat\n:POSTROUTING ACCEPT [0:0]\n:SUB - [0:0]\n-A POSTROUTING ${line}\nCOMMIT\n`;
  const [table] = await parseIptables(text, 'iptables-legacy', 'ip');
  return table!.chains.get('POSTROUTING')!.rules[0]!;
}

const steps = async (line: string) => (await rule(line)).steps;

suite('iptables-save syntax', () => {
  test('words are split at blanks outside quotes, backslashes taken away', () => {
    assert.deepEqual(split('-A X -m comment --comment "say \\"no\\" -j DROP" -j RETURN'), [
      '-A',
      'X',
      '-m',
      'comment',
      '--comment',
      'say "no" -j DROP',
      '-j',
      'RETURN',
    ]);
  });

  test('chains know their hook and priority, user chains have none', async () => {
    const text =
      '*mangle\n:POSTROUTING ACCEPT [1:2]\nCOMMIT\n*nat\n:OUTPUT DROP [0:0]\n:POSTROUTING ACCEPT [0:0]\n:X - [0:0]\nCOMMIT\n';
    const [mangle, nat] = await parseIptables(text, 'iptables-nft', 'ip6');
    assert.deepEqual(mangle!.chains.get('POSTROUTING')!.base, {
      hook: 'postrouting',
      priority: -150,
      type: 'filter',
      accept: true,
    });
    assert.deepEqual(nat!.chains.get('OUTPUT')!.base, {
      hook: 'output',
      priority: -100,
      type: 'nat',
      accept: false,
    });
    assert.equal(nat!.chains.get('POSTROUTING')!.base!.priority, 100);
    assert.equal(nat!.chains.get('X')!.base, null);
    assert.equal(nat!.family, 'ip6');
  });

  test('the rule keeps its own text and its number', async () => {
    const line = '-s 10.0.0.0/8 -m comment --comment "a b" -j ACCEPT';
    const { text, handle } = await rule(line);
    assert.equal(text, `-A POSTROUTING ${line}`);
    assert.equal(handle, 1);
  });

  test('marks are read with mask and negation', async () => {
    assert.deepEqual(await steps('-m mark ! --mark 0x4000/0xc000 -j RETURN'), [
      { match: 'mark', mask: 0xc000, values: [[0x4000, 0x4000]], negated: true },
      { do: 'return' },
    ]);
    assert.deepEqual((await steps('-m mark --mark 0x1 -j ACCEPT'))[0], {
      match: 'mark',
      mask: 0xffffffff,
      values: [[1, 1]],
      negated: false,
    });
  });

  test("a connection's mark is not a packet's", async () => {
    assert.deepEqual((await steps('-m connmark --mark 0x1 -j ACCEPT'))[0], {
      match: 'unknown',
      text: '--mark 0x1',
    });
  });

  for (const [target, and, xor] of [
    ['--set-xmark 0x4000/0x4000', 0xffffbfff, 0x4000],
    ['--set-xmark 0x4000/0x0', 0xffffffff, 0x4000],
    ['--set-mark 0x1/0xff', 0xffffff00, 0x1],
    ['--set-mark 0x80000000', 0, 0x80000000],
    ['--or-mark 0x4000', 0xffffbfff, 0x4000],
    ['--and-mark 0xffff00ff', 0xffff00ff, 0],
    ['--xor-mark 0x4000', 0xffffffff, 0x4000],
  ] as const)
    test(`MARK ${target} is mark & ${and.toString(16)} ^ ${xor.toString(16)}`, async () => {
      assert.deepEqual(await steps(`-j MARK ${target}`), [{ do: 'mark', and, xor }]);
    });

  test('a restored conntrack mark makes its bits unknown', async () => {
    assert.deepEqual(await steps('-j CONNMARK --restore-mark --nfmask 0xff00 --ctmask 0xff00'), [
      { do: 'mark-unknown', mask: 0xff00 },
    ]);
    assert.deepEqual(await steps('-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff'), []);
  });

  test('source NAT knows whether it always picks another port', async () => {
    const snat = { do: 'snat', masquerade: true, random: false, ports: null, address: null };
    assert.deepEqual(await steps('-j MASQUERADE'), [snat]);
    assert.deepEqual(await steps('-j MASQUERADE --random-fully'), [{ ...snat, random: true }]);
    assert.deepEqual(await steps('-j MASQUERADE --random'), [{ ...snat, random: true }]);
    const [, ports] = await steps('-p udp -j MASQUERADE --to-ports 1024-2000');
    assert.deepEqual(ports, { ...snat, ports: [1024, 2000] });
    const to = async (text: string) => (await steps(`-p udp -j SNAT --to-source ${text}`))[1];
    const fixed = { ...snat, masquerade: false };
    assert.deepEqual(await to('1.2.3.4'), { ...fixed, address: '1.2.3.4' });
    assert.deepEqual(await to('1.2.3.4-1.2.3.9:5-7 --random'), {
      ...fixed,
      random: true,
      address: '1.2.3.4',
      ports: [5, 7],
    });
    assert.deepEqual(await to('[fd00::1]:5-7'), { ...fixed, address: 'fd00::1', ports: [5, 7] });
    assert.deepEqual(await to('fd00::1'), { ...fixed, address: 'fd00::1' });
  });

  test('addresses, protocols, ports and devices, each with its negation', async () => {
    assert.deepEqual(
      await steps(
        '! -s 10.244.0.0/16 -d 10.96.0.10/32 ! -o cni+ -p udp -m multiport --dports 53,8472:8480 -j SUB',
      ),
      [
        { match: 'source', values: prefix('10.244.0.0/16')!.set, negated: true },
        { match: 'destination', values: prefix('10.96.0.10')!.set, negated: false },
        { match: 'oif', names: ['cni+'], negated: true },
        { match: 'protocol', values: only(17), negated: false },
        {
          match: 'dport',
          values: [
            [53n, 53n],
            [8472n, 8480n],
          ],
          negated: false,
        },
        { do: 'jump', targets: ['SUB'], sure: true },
      ],
    );
  });

  test('what is not known is an unknown match with its text, never skipped', async () => {
    assert.deepEqual(
      await steps('-m set --match-set POOL src -m set ! --match-set ALL dst -j MASQUERADE'),
      [
        { match: 'unknown', text: '--match-set POOL src' },
        { match: 'unknown', text: '! --match-set ALL dst' },
        { do: 'snat', masquerade: true, random: false, ports: null, address: null },
      ],
    );
  });

  test('own addresses and connection states', async () => {
    assert.deepEqual(
      await steps('-m addrtype ! --src-type LOCAL -m conntrack --ctstate NEW,RELATED -g SUB'),
      [
        { match: 'local', which: 'source', negated: true },
        { match: 'ctstate', states: ['NEW', 'RELATED'], negated: false },
        { do: 'goto', targets: ['SUB'], sure: true },
      ],
    );
  });
});
