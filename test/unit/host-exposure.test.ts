import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { DeviceFact, NatRule, RulesFact, SnatPath } from '../../src/event/fact.js';
import { exposure, hasZeroChecksumFix } from '../../src/faults/double-snat/exposure.js';
import type { Place } from '../../src/faults/fault.js';
import { place as emptyPlace } from './places.js';

const rule: NatRule = {
  backend: 'iptables-legacy',
  family: 'ip',
  table: 'nat',
  chain: 'K',
  text: '-A K -m mark --mark 0x8/0x8 -j MASQUERADE --random-fully',
  handle: 1,
};

const path: SnatPath = {
  tunnel: 'foo0',
  innerFamily: 'ip',
  outerFamily: 'ip',
  mark: 8,
  marking: [rule],
  first: rule,
  second: rule,
  changes: 'port',
  clearing: null,
  masqueradeFirst: false,
  curedByClearing: true,
  assumes: [],
};

const device = (udpChecksum: boolean, offload: boolean | null = true): DeviceFact => ({
  fact: 'device',
  netns: 1,
  ifindex: 4,
  name: 'foo0',
  kind: 'vxlan',
  mtu: 1450,
  mac: '',
  addresses: [],
  offloads: offload === null ? {} : { 'tx-checksum-ip-generic': offload },
  tunnel: {
    kind: 'vxlan',
    vni: 1,
    port: 4789,
    local: null,
    remote: null,
    udpChecksum,
    sourcePorts: null,
    link: null,
  },
});

const rules = (fact: Partial<RulesFact>): RulesFact => ({
  fact: 'rules',
  netns: 1,
  digest: '',
  marking: [],
  masquerade: [],
  paths: [path],
  spared: [],
  unread: [],
  ...fact,
});

const place = (changes: Partial<Place> = {}): Place =>
  emptyPlace({ devices: [device(true)], rules: rules({}), ...changes });

suite('exposure to double SNAT', () => {
  test('all conditions together: exposed, proved, the kernel is no cure', () => {
    const { exposures, unexposed } = exposure(place());
    assert.deepEqual(unexposed, []);
    const [found] = exposures;
    assert.equal(found!.defect, 'udpcsum-not-updated');
    assert.equal(found!.confidence, 'proved');
    assert.deepEqual(found!.where, { netns: 'node', device: 'foo0' });
    assert.deepEqual(found!.enough, { kubernetes: true, kernel: false });
    const commands = found!.remedies.map(({ command }) => command);
    assert.ok(commands.includes('ethtool -K foo0 tx-checksum-ip-generic off'));
    assert.ok(commands.some((command) => command?.includes('--dport 4789')));
  });

  test('each condition that does not hold is named', () => {
    const why = (changes: Partial<Place>) =>
      exposure(place(changes))
        .unexposed.flatMap(({ why: lines }) => lines)
        .join(' ');
    assert.match(why({ devices: [] }), /no VXLAN or Geneve device/);
    assert.match(why({ devices: [device(true, false)] }), /offload is off at foo0/);
    assert.match(why({ devices: [device(false)] }), /writes no outer UDP checksum/);
    const spared = (reason: RulesFact['spared'][number]['reason']) =>
      why({ rules: rules({ paths: [], spared: [{ tunnel: 'foo0', reason, rule }] }) });
    assert.match(spared('mark-cleared'), /mark is cleared before/);
    assert.match(spared('outer-unchanged'), /without --random-fully/);
    assert.match(spared('outer-not-masqueraded'), /No rule source-NATs the outer packet/);
    assert.match(spared('no-masquerade'), /No rule source-NATs packets/);
  });

  test('several conditions that do not hold are all named', () => {
    const { unexposed } = exposure(
      place({ devices: [device(false, false)], rules: rules({ paths: [] }) }),
    );
    assert.equal(unexposed[0]!.why.length, 3);
  });

  test('without outer checksums an old kernel is exposed, and upgrading it is a cure', () => {
    const [old] = exposure(place({ kernel: '4.19.100', devices: [device(false)] })).exposures;
    assert.equal(old!.defect, 'legacy-zero-checksum');
    assert.equal(old!.confidence, 'proved');
    assert.equal(old!.enough.kernel, true);
    const [distribution] = exposure(
      place({ kernel: '4.18.0-305.el8.x86_64', devices: [device(false)] }),
    ).exposures;
    assert.equal(distribution!.confidence, 'possible');
    const [shown] = exposure(
      place({ devices: [device(false)], settings: { 'nf_nat.udp_legacy_csum': 'Y' } }),
    ).exposures;
    assert.equal(shown!.defect, 'legacy-zero-checksum');
  });

  test('versions with the kernel’s fix', () => {
    for (const fixed of ['5.7.0', '6.1.192', '5.6.13', '5.4.41', '4.19.123', '4.14.181'])
      assert.equal(hasZeroChecksumFix(fixed), true, fixed);
    for (const not of ['5.6.12', '5.5.19', '5.4.40', '4.19.122', '4.14.180', '4.9.337', '3.10.0'])
      assert.equal(hasZeroChecksumFix(not), false, not);
  });

  test('what a rule masquerades first makes an upgrade of Kubernetes not enough, and is named', () => {
    const cni: NatRule = { ...rule, text: '-A CNI -j MASQUERADE' };
    const first = { ...path, first: cni, masqueradeFirst: true, curedByClearing: false };
    const [found] = exposure(place({ rules: rules({ paths: [first] }) })).exposures;
    assert.equal(found!.enough.kubernetes, false);
    assert.match(found!.why.join(' '), /Kubernetes is not enough here: `-A CNI -j MASQUERADE`/);
    assert.match(found!.remedies[0]!.what, /-A CNI -j MASQUERADE/);
  });

  test('what could not be read lowers confidence and is said', () => {
    const [unread] = exposure(
      place({ rules: rules({ paths: [], unread: ['legacy iptables tables (nat): …'] }) }),
    ).exposures;
    assert.equal(unread!.confidence, 'possible');
    assert.match(unread!.why.join(' '), /Not all rules could be read/);
    assert.equal(exposure(place({ devices: [device(true, null)] })).exposures.length, 1);
    const assumed = { ...path, assumes: ['--match-set X dst'] };
    const [possible] = exposure(place({ rules: rules({ paths: [assumed] }) })).exposures;
    assert.equal(possible!.confidence, 'possible');
    assert.match(possible!.why.join(' '), /--match-set X dst/);
  });
});
