import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseCounters } from '../../src/host/counters.js';
import { parseDatapath } from '../../src/host/datapath.js';
import { parseDevices, parsePeers, parseRoutes } from '../../src/host/devices.js';
import { atLeast } from '../../src/host/kernel.js';
import { processFact } from '../../src/host/processes.js';
import { LATE, parseSections } from '../../src/host/read.js';
import { rulesFact, tunnelEnds } from '../../src/host/rules/read.js';
import { parseSettings } from '../../src/host/settings.js';

const vxlan = (data: object, more: object = {}) => ({
  ifindex: 4,
  ifname: 'vx0',
  mtu: 1450,
  address: '02:00:00:00:00:01',
  linkinfo: { info_kind: 'vxlan', info_data: { id: 7, port: 4789, ...data } },
  addr_info: [],
  ...more,
});

const underlay = {
  ifindex: 2,
  ifname: 'eth0',
  addr_info: [
    { local: '192.168.1.2', prefixlen: 24 },
    { local: 'fe80::1', prefixlen: 64 },
  ],
};

const devices = (...list: object[]) =>
  parseDevices(1, new Map([['addresses', JSON.stringify(list)]]));

suite('devices', () => {
  test('a tunnel tells its port, ends, underlay and checksums', () => {
    const [, tunnel] = devices(
      underlay,
      vxlan({
        local: '192.168.1.2',
        link: 'eth0',
        udp_csum: true,
        port_range: { low: 0, high: 0 },
      }),
    );
    assert.deepEqual(tunnel!.tunnel, {
      kind: 'vxlan',
      vni: 7,
      port: 4789,
      local: '192.168.1.2',
      remote: null,
      udpChecksum: true,
      sourcePorts: null,
      link: 2,
    });
  });

  test('over IPv6 checksums are on unless zero ones were asked for', () => {
    const csum = (data: object) => devices(vxlan({ local6: 'fd00::1', ...data }))[0]!.tunnel;
    assert.equal(csum({ udp_csum: false, udp_zero_csum6_tx: false })!.udpChecksum, true);
    assert.equal(csum({ udp_csum: true, udp_zero_csum6_tx: true })!.udpChecksum, false);
    assert.equal(csum({})!.local, 'fd00::1');
  });

  test('an external tunnel is marked as one, a port of a bridge knows the bridge', () => {
    const [bridge, tunnel] = devices(
      { ifindex: 9, ifname: 'br0', linkinfo: { info_kind: 'bridge' } },
      vxlan({ external: true }, { master: 'br0' }),
    );
    assert.equal(bridge!.kind, 'bridge');
    assert.equal(tunnel!.tunnel!.external, true);
    assert.equal(tunnel!.master, 9);
  });

  test('a device tells of the program that takes its packets first', () => {
    const xdp = (mode: number) => ({ mode, prog: { id: 7, name: 'lb', tag: '61' }, attached: [] });
    const programs = devices(
      { ifindex: 2, ifname: 'eth0', xdp: xdp(1) },
      { ifindex: 3, ifname: 'eth1', xdp: xdp(2) },
      { ifindex: 4, ifname: 'eth2' },
    ).map((device) => device.xdp);
    assert.deepEqual(programs, [
      { mode: 'native', program: 'lb' },
      { mode: 'generic', program: 'lb' },
      undefined,
    ]);
  });

  test('offloads come from the lines of ethtool', () => {
    const offloads = [
      '        "ifname": "eth0",',
      '        "rx-checksumming": {',
      '--',
      '        "rx-checksumming": {',
      '            "active": true,',
      '--',
      '        "tx-checksum-ip-generic": {',
      '            "active": false,',
      '        "ifname": "vx0",',
      '        "rx-checksumming": {',
      '--',
      '        "tx-checksum-ip-generic": {',
      '            "active": true,',
    ].join('\n');
    const [eth0, vx0] = parseDevices(
      1,
      new Map([
        ['addresses', JSON.stringify([underlay, vxlan({})])],
        ['offloads', offloads],
      ]),
    );
    assert.deepEqual(eth0!.offloads, { 'rx-checksumming': true, 'tx-checksum-ip-generic': false });
    assert.equal(vx0!.offloads['tx-checksum-ip-generic'], true);
  });

  test('output cut short or of no tool gives no devices', () => {
    assert.deepEqual(parseDevices(1, new Map([['addresses', '[{"ifind']])), []);
    assert.deepEqual(parseDevices(1, new Map()), []);
  });

  test('routes and peers of a tunnel', () => {
    const routes = [
      '10.244.1.0/24 via 10.244.1.0 table main onlink',
      'local 10.244.2.0 table local proto kernel scope host',
      'broadcast 10.1.1.255 table local',
      'fe80::/64 proto kernel metric 256',
      'fd00:1::/64 metric 1024',
      'multicast ff00::/8 table local',
    ].join('\n');
    assert.deepEqual(parseRoutes(routes), ['10.244.1.0/24', 'fd00:1::/64']);
    assert.deepEqual(parseRoutes('default via 10.0.0.1'), ['0.0.0.0/0', '::/0']);
    const fdb =
      '02:00:00:00:02:01 dst 192.168.100.1 self permanent\n33:33:00:00:00:01 self permanent\n02:00:00:00:02:03 dst 192.168.100.1 via eth0 self\n';
    assert.deepEqual(parsePeers(fdb), ['192.168.100.1']);
  });

  test('a tunnel’s end is made of device, routes, peers and settings', () => {
    const list = devices(
      underlay,
      vxlan({ local: '192.168.1.2', link: 'eth0', group: '239.1.1.1', udp_csum: true }),
    );
    const sections = new Map([
      ['routes vx0', '10.244.1.0/24 via 10.244.1.0 onlink'],
      ['peers vx0', '00:00:00:00:00:00 dst 192.168.1.9 self permanent'],
    ]);
    const settings = { 'net.ipv4.ip_local_port_range': '40000 50000' };
    assert.deepEqual(tunnelEnds(list, sections, settings), [
      {
        device: 'vx0',
        via: 'vx0',
        destinations: ['10.244.1.0/24'],
        local: '192.168.1.2',
        peers: ['192.168.1.9'],
        family: 'ip',
        port: 4789,
        sourcePorts: [40000, 50000],
        underlay: 'eth0',
        underlayAddress: '192.168.1.2',
      },
    ]);
  });
});

suite('datapath', () => {
  test('tables of both kinds, IPVS, Cilium, bridge netfilter, flow tables', () => {
    const ruleset =
      '{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "nat", "handle": 1}}, {"rule": {"family": "ip", "table": "nat"}}, {"flowtable": {"family": "inet", "name": "f"}}]}';
    const sections = new Map([
      ['tables4', 'nat\nfilter\n'],
      ['tables6', ''],
      ['ipvs', 'UDP  0A60000A:0035 rr\n  -> 0AF40102:0035 Masq 1 0 0\n'],
      ['cilium', '/sys/class/net/cilium_host\n'],
      ['bridge', '0\n'],
      ['nft', ruleset],
    ]);
    assert.deepEqual(parseDatapath(7, sections), {
      fact: 'datapath',
      netns: 7,
      iptablesLegacy: ['iptables nat', 'iptables filter'],
      nft: ['ip nat'],
      ipvs: true,
      cilium: true,
      bridgeNetfilter: false,
      flowtables: true,
    });
    const empty = parseDatapath(7, new Map());
    assert.deepEqual([empty.nft, empty.ipvs, empty.bridgeNetfilter], [[], false, null]);
  });
});

suite('settings and counters', () => {
  test('settings by their sysctl name, blanks made one', () => {
    const text =
      'net/core/txrehash:1\nnet/ipv4/ip_local_port_range:32768\t60999\n/sys/module/nf_nat/parameters/udp_legacy_csum:Y\n';
    assert.deepEqual(parseSettings(text), {
      'net.core.txrehash': '1',
      'net.ipv4.ip_local_port_range': '32768 60999',
      'nf_nat.udp_legacy_csum': 'Y',
    });
  });

  test('counters that are not zero, conntrack’s summed over CPUs from hexadecimal', () => {
    const sections = new Map([
      [
        'conntrack',
        'entries  insert_failed drop\n00000010  00000001 0000000a\n00000010  00000002 00000000\n',
      ],
      [
        'snmp',
        'Ip: Forwarding DefaultTTL InReceives\nIp: 1 64 5\nUdp: InErrors InCsumErrors\nUdp: 0 3\n',
      ],
      ['snmp6', 'Ip6InDiscards   \t4\nUdp6InCsumErrors  0\n'],
      [
        'devices',
        'Inter-|\n face |\n  eth0: 1 2 3 4 0 0 0 0 9 9 0 7 0 0 0 0\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n',
      ],
      ['softnet', '00000a00 00000001 00000000\n00000b00 00000010 00000002\n'],
    ]);
    assert.deepEqual(parseCounters(sections), {
      'conntrack.entries': 16,
      'conntrack.insert_failed': 3,
      'conntrack.drop': 10,
      'Ip.InReceives': 5,
      'Udp.InCsumErrors': 3,
      'Ip6.InDiscards': 4,
      'device.eth0.rx_errors': 3,
      'device.eth0.rx_drop': 4,
      'device.eth0.tx_drop': 7,
      'softnet.dropped': 17,
      'softnet.time_squeeze': 2,
    });
  });
});

suite('kernel and processes', () => {
  test('releases are compared by number, suffixes aside', () => {
    assert.equal(atLeast('6.18.44-fc-v595', 5, 7), true);
    assert.equal(atLeast('5.10.0-30-amd64', 5, 7), true);
    assert.equal(atLeast('5.6.12', 5, 6, 13), false);
    assert.equal(atLeast('5.6.13', 5, 6, 13), true);
    assert.equal(atLeast('5.6', 5, 6, 1), false);
    assert.equal(atLeast('4.19.123-rt', 4, 19, 123), true);
  });

  test('this process is known by its command line, one that is not is null', () => {
    const fact = processFact(process.pid);
    assert.match(fact!.command, /node/);
    assert.equal(fact!.pid, process.pid);
    assert.equal(processFact(2 ** 22 + 1), null);
  });
});

test('rules that were not listed in time are not known, rather than none', async () => {
  const printed = '\n\u001e@@ settings\na\n\u001e@@ legacy ip\n*nat\n-A POSTROUT';
  assert.deepEqual(
    [...parseSections(printed, false)],
    [
      ['settings', 'a'],
      ['legacy ip', '*nat\n-A POSTROUT'],
    ],
  );
  const late = parseSections(printed, true);
  assert.deepEqual([...late.keys()], ['settings', LATE]);
  assert.match((await rulesFact(1, late, [])).unread.join(), /^legacy ip and what comes after it/);
});
