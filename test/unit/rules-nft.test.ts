import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseNft } from '../../src/host/rules/nft.js';
import type { Step } from '../../src/host/rules/model.js';
import { only, prefix } from '../../src/host/rules/ranges.js';

const mark = { meta: { key: 'mark' } };
const payload = (protocol: string, field: string) => ({ payload: { protocol, field } });
const match = (left: unknown, right: unknown, op = '==') => ({ match: { op, left, right } });
const setMark = (value: unknown) => ({ mangle: { key: mark, value } });

/** The steps of a rule with these expressions. */
function steps(...expr: unknown[]): readonly Step[] {
  const [table] = parseNft(ruleset(expr), '', new Set());
  return table!.chains.get('post')!.rules[0]!.steps;
}

function ruleset(expr: unknown[], more: unknown[] = []): string {
  return JSON.stringify({
    nftables: [
      { metainfo: { json_schema_version: 1 } },
      { table: { family: 'ip', name: 't', handle: 1 } },
      ...more,
      {
        chain: {
          family: 'ip',
          table: 't',
          name: 'post',
          handle: 1,
          type: 'nat',
          hook: 'postrouting',
          prio: 100,
          policy: 'accept',
        },
      },
      { chain: { family: 'ip', table: 't', name: 'sub', handle: 2 } },
      { rule: { family: 'ip', table: 't', chain: 'post', handle: 7, expr } },
    ],
  });
}

suite('nft JSON', () => {
  test('chains, hooks, and the rule’s own text by its handle', () => {
    const listing =
      'table ip t { # handle 1\n\tchain post { # handle 1\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t\tmeta mark 0x1 masquerade # handle 7\n\t}\n}\n';
    const [table] = parseNft(ruleset([{ masquerade: null }]), listing, new Set());
    const post = table!.chains.get('post')!;
    assert.deepEqual(post.base, {
      hook: 'postrouting',
      priority: 100,
      type: 'nat',
      accept: true,
    });
    assert.equal(post.rules[0]!.text, 'meta mark 0x1 masquerade');
    assert.equal(post.rules[0]!.handle, 7);
    assert.equal(table!.chains.get('sub')!.base, null);
  });

  test('tables that iptables made are left to its own syntax', () => {
    assert.deepEqual(parseNft(ruleset([]), '', new Set(['ip t'])), []);
  });

  test('marks: plain, masked, negated, sets and ranges', () => {
    const masked = { '&': [mark, 0x4000] };
    assert.deepEqual(
      steps(
        match(mark, 0x8000),
        match(masked, 0x4000, '!='),
        match(mark, { set: [1, { range: [5, 9] }] }),
      ),
      [
        { match: 'mark', mask: 0xffffffff, values: [[0x8000, 0x8000]], negated: false },
        { match: 'mark', mask: 0x4000, values: [[0x4000, 0x4000]], negated: true },
        {
          match: 'mark',
          mask: 0xffffffff,
          values: [
            [1, 1],
            [5, 9],
          ],
          negated: false,
        },
      ],
    );
  });

  for (const [text, value, and, xor] of [
    ['constant', 0x4000, 0, 0x4000],
    ['or', { '|': [mark, 0x4000] }, 0xffffbfff, 0x4000],
    ['xor', { '^': [mark, 0x4000] }, 0xffffffff, 0x4000],
    ['and', { '&': [mark, 0xffffbfff] }, 0xffffbfff, 0],
    ['and, or', { '|': [{ '&': [mark, 0xffffbfff] }, 1] }, 0xffffbffe, 1],
    ['and, xor', { '^': [{ '&': [mark, 0xff] }, 0x4001] }, 0xff, 0x4001],
  ] as const)
    test(`mark set: ${text}`, () => {
      assert.deepEqual(steps(setMark(value)), [{ do: 'mark', and, xor }]);
    });

  test('a mark from elsewhere is unknown, a conntrack mark set is nothing', () => {
    assert.deepEqual(steps(setMark({ ct: { key: 'mark' } })), [
      { do: 'mark-unknown', mask: 0xffffffff },
    ]);
    assert.deepEqual(steps({ mangle: { key: { ct: { key: 'mark' } }, value: mark } }), []);
  });

  test('source NAT with one flag, several, ports', () => {
    const snat = { do: 'snat', masquerade: true, random: false, ports: null, address: null };
    assert.deepEqual(steps({ masquerade: null }), [snat]);
    assert.deepEqual(steps({ masquerade: { flags: 'fully-random' } }), [{ ...snat, random: true }]);
    assert.deepEqual(steps({ masquerade: { flags: ['random', 'persistent'] } }), [
      { ...snat, random: true },
    ]);
    assert.deepEqual(steps({ snat: { addr: '1.2.3.4', port: { range: [1000, 2000] } } }), [
      { ...snat, masquerade: false, address: '1.2.3.4', ports: [1000, 2000] },
    ]);
  });

  test('addresses, ports, protocols, devices, own addresses', () => {
    assert.deepEqual(
      steps(
        match(payload('ip', 'saddr'), {
          set: ['1.2.3.4', { prefix: { addr: '10.0.0.0', len: 8 } }],
        }),
        match(payload('ip', 'daddr'), { range: ['10.0.0.1', '10.0.0.9'] }, '!='),
        match({ meta: { key: 'l4proto' } }, 'udp'),
        match(payload('udp', 'dport'), 8472),
        match({ meta: { key: 'oifname' } }, 'eth*'),
        match({ fib: { result: 'type', flags: ['daddr'] } }, 'local'),
        { return: null },
      ),
      [
        {
          match: 'source',
          values: [...prefix('1.2.3.4')!.set, ...prefix('10.0.0.0/8')!.set],
          negated: false,
        },
        { match: 'destination', values: [[0x0a000001n, 0x0a000009n]], negated: true },
        { match: 'protocol', values: only(17), negated: false },
        { match: 'dport', values: only(8472), negated: false },
        { match: 'oif', names: ['eth*'], negated: false },
        { match: 'local', which: 'destination', negated: false },
        { do: 'return' },
      ],
    );
  });

  test('verdict maps lead to all their chains, unsure', () => {
    const map = {
      map: {
        family: 'ip',
        table: 't',
        name: 'svc',
        map: 'verdict',
        elem: [
          [80, { goto: { target: 'sub' } }],
          [81, { drop: null }],
        ],
      },
    };
    const expr = [{ vmap: { key: payload('tcp', 'dport'), data: '@svc' } }];
    const [table] = parseNft(ruleset(expr, [map]), '', new Set());
    assert.deepEqual(table!.chains.get('post')!.rules[0]!.steps, [
      { do: 'jump', targets: ['sub'], sure: false },
    ]);
  });

  test('what is not known is an unknown match, counters are nothing', () => {
    assert.deepEqual(steps({ counter: null }, { log: null }), []);
    const [step] = steps(match(payload('ip', 'saddr'), '@named'));
    assert.equal(step && 'match' in step && step.match, 'unknown');
  });
});
