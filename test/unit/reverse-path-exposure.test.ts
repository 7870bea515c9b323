import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DeviceFact } from '../../src/event/fact.js';
import { exposure } from '../../src/faults/reverse-path-filter/exposure.js';
import { parseDevices } from '../../src/host/devices.js';
import { place as emptyPlace } from './places.js';

const device = (name: string, ifindex: number, rpFilter: number, routes: string[]): DeviceFact => ({
  fact: 'device',
  ...{ netns: 1, ifindex, name, kind: '', mtu: 1500, mac: '', addresses: [], offloads: {} },
  ...{ tunnel: null, rpFilter, routes },
});

const place = (all: string, ...devices: DeviceFact[]) =>
  emptyPlace({ netns: 'host', devices, settings: { 'net.ipv4.conf.all.rp_filter': all } });

const uplink = (rpFilter: number) => device('eth0', 1, rpFilter, ['default via 10.0.0.1']);
const second = device('eth1', 2, 0, ['10.1.0.0/24', '10.2.0.0/16 via 10.1.0.1']);

test('a strict filter where routes lead through several devices is an exposure, of that device', () => {
  const { exposures } = exposure(place('0', uplink(1), second));
  assert.deepEqual(
    exposures.map(({ where, confidence }) => ({ where, confidence })),
    [{ where: { netns: 'host', device: 'eth0' }, confidence: 'possible' }],
  );
});

test('a loose filter, or one uplink alone, is none', () => {
  assert.deepEqual(exposure(place('2', uplink(1), second)).exposures, []);
  assert.deepEqual(exposure(place('1', uplink(1))).exposures, []);
});

test('devices tell their rp_filter and what the main table routes to them', () => {
  const [eth0, eth1] = parseDevices(
    1,
    new Map([
      ['addresses', '[{"ifindex":2,"ifname":"eth0"},{"ifindex":3,"ifname":"eth1"}]'],
      ['rp_filter', '/proc/sys/net/ipv4/conf/eth0/rp_filter:2\n'],
      [
        'main4',
        'default \n\tnexthop via 10.0.0.1 dev eth0 weight 1\n\tnexthop via 10.1.0.1 dev eth1 weight 1\n10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.2\n',
      ],
      ['main6', 'fe80::/64 dev eth0 proto kernel metric 256\nfd00::/8 via fe80::1 dev eth1\n'],
    ]),
  );
  assert.equal(eth0?.rpFilter, 2);
  assert.deepEqual(eth0.routes, ['default via 10.0.0.1', '10.0.0.0/24']);
  assert.deepEqual(eth1?.routes, ['default via 10.1.0.1', 'fd00::/8 via fe80::1']);
});
