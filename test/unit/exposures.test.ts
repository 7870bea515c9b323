import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import type { DeviceFact, DroppingRule, RulesFact } from '../../src/event/fact.js';
import { exposure as insertRace } from '../../src/faults/conntrack-insert-race/exposure.js';
import { exposure as lateAnswer } from '../../src/faults/conntrack-late-answer/exposure.js';
import { exposure as tableFull } from '../../src/faults/conntrack-table-full/exposure.js';
import type { ExposureReport } from '../../src/faults/fault.js';
import { exposure as policyDrop } from '../../src/faults/policy-drop/exposure.js';
import { exposure as bufferFull } from '../../src/faults/receive-buffer-full/exposure.js';
import { exposure as notTranslated } from '../../src/faults/reply-not-translated/exposure.js';
import { exposure as resolverSearch } from '../../src/faults/resolver-search/exposure.js';
import { exposure as staleBackend } from '../../src/faults/stale-backend/exposure.js';
import { libcIn, parseResolvConf, pathInside, type Resolver } from '../../src/host/resolvers.js';
import { natDnsServices } from '../../src/host/rules/read.js';
import { place } from './places.js';

const DNS = '10.96.0.10';

const rules = (fact: Partial<RulesFact>): RulesFact => ({
  fact: 'rules',
  netns: 1,
  digest: '',
  marking: [],
  masquerade: [],
  paths: [],
  spared: [],
  unread: [],
  ...fact,
});

const resolver = (changes: Partial<Resolver> = {}): Resolver => ({
  netns: ['pod'],
  libc: 'glibc',
  nameServers: [DNS],
  search: ['a.example', 'b.example', 'example'],
  ndots: 5,
  options: [],
  ...changes,
});

/** The one exposure there has to be. */
function only({ exposures, unexposed }: ExposureReport) {
  assert.equal(exposures.length, 1, JSON.stringify(unexposed));
  const [one] = exposures;
  return { ...one!, text: one!.why.join(' ') };
}

function why({ exposures, unexposed }: ExposureReport): string {
  assert.deepEqual(exposures, []);
  return unexposed.flatMap((one) => one.why).join(' ');
}

suite('conntrack-table-full', () => {
  const settings = { 'net.netfilter.nf_conntrack_max': '1000' };
  test('a table that is filling, the fuller the surer', () => {
    const at = (entries: number) =>
      tableFull(place({ settings, counters: { 'conntrack.entries': entries } }));
    assert.match(why(at(300)), /300 of 1000 entries are taken \(30 %\)/);
    assert.equal(only(at(750)).confidence, 'possible');
    const full = only(at(950));
    assert.equal(full.confidence, 'likely');
    assert.match(full.text, /950 of 1000 entries are taken \(95 %\)/);
    assert.ok(full.remedies.some(({ command }) => command?.endsWith('nf_conntrack_max=2000')));
  });

  test('one that was full before, and no conntrack at all', () => {
    const early = only(tableFull(place({ settings, counters: { 'conntrack.early_drop': 7 } })));
    assert.match(early.text, /7 entries had to go early/);
    assert.match(why(tableFull(place())), /conntrack is not in use/);
  });
});

suite('receive-buffer-full', () => {
  const settings = {
    'net.core.somaxconn': '4096',
    'net.core.rmem_default': '212992',
    'net.ipv4.tcp_syncookies': '1',
  };

  test('sockets that have overflowed, or have little room', () => {
    assert.match(why(bufferFull(place({ settings }))), /no socket has overflowed/);
    const happened = only(
      bufferFull(place({ settings, counters: { 'TcpExt.ListenOverflows': 290 } })),
    );
    assert.equal(happened.confidence, 'likely');
    assert.match(happened.text, /TcpExt.ListenOverflows is 290 .* accept queue/);
    const small = only(
      bufferFull(place({ settings: { ...settings, 'net.core.somaxconn': '128' } })),
    );
    assert.equal(small.confidence, 'possible');
    assert.equal(small.remedies[0]!.command, 'sysctl -w net.core.somaxconn=4096');
    const cookies = { ...settings, 'net.ipv4.tcp_syncookies': '0' };
    assert.match(only(bufferFull(place({ settings: cookies }))).text, /tcp_syncookies is 0/);
  });
});

suite('resolvers', () => {
  test('resolv.conf: of search and domain the last counts, options add up', () => {
    const text = [
      '# made by hand',
      'nameserver 10.96.0.10',
      'domain old.example',
      'search a.example  b.example',
      'options ndots:5 timeout:1',
      'options single-request-reopen',
      'nameserver fd00::a # the other',
    ].join('\n');
    assert.deepEqual(parseResolvConf(text), {
      nameServers: [DNS, 'fd00::a'],
      search: ['a.example', 'b.example'],
      ndots: 5,
      options: ['timeout:1', 'single-request-reopen'],
    });
    assert.deepEqual(parseResolvConf(''), { nameServers: [], search: [], ndots: 1, options: [] });
  });

  test('links in another root begin there, and lead no further up', async (t) => {
    const root = mkdtempSync(join(tmpdir(), 'skbwhy-root-'));
    t.after(() => rmSync(root, { recursive: true }));
    mkdirSync(join(root, 'run/resolve'), { recursive: true });
    mkdirSync(join(root, 'etc'));
    mkdirSync(join(root, 'var'));
    symlinkSync('/run', join(root, 'var/run'));
    symlinkSync('/var/run/resolve/stub.conf', join(root, 'etc/resolv.conf'));
    symlinkSync('../../../../etc/passwd', join(root, 'etc/out'));
    symlinkSync('round', join(root, 'etc/round'));
    const inside = (path: string) => pathInside(root, path);
    assert.equal(await inside('/etc/resolv.conf'), `${root}/run/resolve/stub.conf`);
    assert.equal(await inside('/etc/out'), `${root}/etc/passwd`);
    assert.equal(await inside('/etc/round'), null);
  });

  test('the C library by what a process maps', () => {
    const maps = (file: string): string =>
      `7f1c2a000000-7f1c2a028000 r--p 00000000 fe:00 1234      ${file}\n7ffd [stack]\n`;
    for (const musl of ['/lib/ld-musl-x86_64.so.1', '/usr/lib/x86_64-linux-musl/libc.so'])
      assert.equal(libcIn(maps(musl)), 'musl');
    for (const glibc of ['/usr/lib/x86_64-linux-gnu/libc.so.6', '/lib64/libc-2.28.so'])
      assert.equal(libcIn(maps(glibc)), 'glibc');
    assert.equal(libcIn(maps('/usr/bin/coredns')), null);
  });

  test('a long search list with ndots is an exposure, with what it costs', () => {
    const found = only(resolverSearch(place({ resolvers: [resolver()] })));
    assert.equal(found.confidence, 'proved');
    assert.match(found.text, /ndots:5 and a search list of 3/);
    assert.match(found.text, /6 questions/);
    assert.match(why(resolverSearch(place({ resolvers: [resolver({ ndots: 1 })] }))), /ndots is 1/);
    assert.match(why(resolverSearch(place())), /no process here has a resolv.conf/);
  });
});

suite('A and AAAA through destination NAT', () => {
  const at = (kernel: string, dnsServices: string[], ...resolvers: Resolver[]) =>
    place({ kernel, rules: rules({ dnsServices }), passing: resolvers });

  test('from 5.7 on the answer may come late, before a query is dropped', () => {
    const now = at('6.18.44', [DNS], resolver({ libc: 'musl' }));
    assert.equal(only(lateAnswer(now)).confidence, 'possible');
    assert.match(why(insertRace(now)), /resolves clashes/);
    const then = at('5.4.0', [DNS], resolver());
    const race = only(insertRace(then));
    assert.deepEqual([race.defect, race.confidence], ['different-backends', 'proved']);
    assert.deepEqual(race.enough, { kubernetes: false, kernel: true });
    assert.match(why(lateAnswer(then)), /drops the second query/);
    assert.equal(only(insertRace(at('4.15.0', [DNS], resolver()))).defect, 'same-tuple');
    const distribution = only(insertRace(at('4.18.0-305.el8.x86_64', [DNS], resolver())));
    assert.equal(distribution.confidence, 'possible');
  });

  test('options keep the two apart with glibc, not with musl', () => {
    const options = ['single-request-reopen'];
    assert.match(why(lateAnswer(at('6.1.0', [DNS], resolver({ options })))), /one after the other/);
    const musl = lateAnswer(at('6.1.0', [DNS], resolver({ options, libc: 'musl' })));
    assert.match(only(musl).text, /musl/);
  });

  test('no translation, or of another server', () => {
    assert.match(why(lateAnswer(at('6.1.0', [], resolver()))), /no rule does destination NAT/);
    assert.match(why(lateAnswer(at('6.1.0', ['10.96.0.99'], resolver()))), /10\.96\.0\.99/);
    // what asks is not known: pods of another machine's processes, say
    assert.match(only(lateAnswer(at('6.1.0', [DNS]))).text, /could not be read/);
  });

  test('the services that rules translate DNS for, of iptables and nft', () => {
    const iptables = [
      '*filter',
      '-A INPUT -d 10.0.0.9/32 -p udp -m udp --dport 53 -j KUBE-FIREWALL',
      '*nat',
      '-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -j KUBE-SVC-DNS',
      '-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB',
      '-A KUBE-SERVICES -d 10.96.0.12/32 -p udp -m udp --dport 53 -j KUBE-MARK-MASQ',
      '-A PREROUTING -d 10.96.0.13/32 -j DNAT --to-destination 10.244.0.5',
      '-A PREROUTING -d 10.96.0.14/32 -p udp -m multiport --dports 50:60,99 -j DNAT --to-destination 10.244.0.5',
      '-A POSTROUTING -d 10.96.0.15/32 -j MASQUERADE',
    ].join('\n');
    assert.deepEqual(natDnsServices(new Map([['legacy ip', iptables]])), [
      DNS,
      '10.96.0.13',
      '10.96.0.14',
    ]);
    const nft = [
      'elements = { 10.96.0.10 . udp . 53 : goto service-dns,',
      ' 10.96.0.1 . tcp . 443 : goto service-api }',
      'ip daddr 10.96.0.20 udp dport 53 dnat to 10.244.0.5',
      'ip daddr 10.96.0.21 udp dport { 52, 54 } dnat to 10.244.0.5',
    ].join('\n');
    assert.deepEqual(natDnsServices(new Map([['listing', nft]])), [DNS, '10.96.0.20']);
  });

  test('longer UDP timeouts than the kernel’s own keep a gone backend longer', () => {
    const stale = (settings: Record<string, string>) =>
      staleBackend(place({ rules: rules({ dnsServices: [DNS] }), settings }));
    assert.match(why(stale({})), /expire after 30 s/);
    const found = only(stale({ 'net.netfilter.nf_conntrack_udp_timeout_stream': '3600' }));
    assert.match(found.text, /3600 s/);
  });
});

suite('rules and bridges', () => {
  const device = (name: string, ifindex: number, more: Partial<DeviceFact>): DeviceFact => ({
    ...{ fact: 'device', netns: 1, ifindex, name, kind: 'veth', mtu: 1500, mac: '', addresses: [] },
    ...{ offloads: {}, tunnel: null, ...more },
  });
  const devices = [
    device('cni0', 3, { kind: 'bridge', addresses: ['10.244.1.1/24'] }),
    device('veth1', 4, { master: 3 }),
    device('veth2', 5, { master: 3 }),
  ];

  test('a bridge past netfilter with a backend on it', () => {
    const at = (value: string | null, destinations: string[]) =>
      notTranslated(
        place({
          devices,
          rules: rules({ destinations }),
          settings: value === null ? {} : { 'net.bridge.bridge-nf-call-iptables': value },
        }),
      );
    assert.match(why(at('1', ['10.244.1.5'])), /bridged packets pass netfilter/);
    assert.match(why(at('0', [])), /no rule does destination NAT/);
    const found = only(at('0', ['10.244.2.5', '10.244.1.5']));
    assert.deepEqual([found.where.device, found.confidence], ['cni0', 'likely']);
    assert.match(found.text, /10\.244\.1\.5, which is in a network of cni0/);
    assert.equal(only(at('0', ['10.244.2.5'])).confidence, 'possible');
    assert.match(only(at(null, ['10.244.1.5'])).text, /br_netfilter is not loaded/);
  });

  test('a rule that drops port 53 is quoted, others are not', () => {
    const drop = (port: string): DroppingRule => ({
      ...{ backend: 'nft', family: 'inet', table: 'guard', chain: 'fwd', handle: 7 },
      ...{ text: `udp dport ${port} drop`, hook: 'forward', priority: 0, action: 'drop' },
      when: [{ match: 'dport', values: [[port, port]], negated: false }],
    });
    const found = only(policyDrop(place({ rules: rules({ dropping: [drop('80'), drop('53')] }) })));
    assert.match(found.text, /`udp dport 53 drop`/);
    assert.ok(!found.text.includes('dport 80'));
    assert.equal(found.remedies[0]!.command, 'nft list chain inet guard fwd');
    const none = policyDrop(place({ rules: rules({ dropping: [drop('80')] }) }));
    assert.match(why(none), /none names port 53/);
  });
});
