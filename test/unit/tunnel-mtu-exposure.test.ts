import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DeviceFact, Tunnel } from '../../src/event/fact.js';
import { exposure } from '../../src/faults/tunnel-mtu/exposure.js';
import { place } from './places.js';

const device = (name: string, ifindex: number, more: Partial<DeviceFact>): DeviceFact => ({
  ...{ fact: 'device', netns: 1, ifindex, name, kind: '', mtu: 1500, mac: '', addresses: [] },
  ...{ offloads: {}, tunnel: null, ...more },
});

const vxlan = (mtu: number, more: Partial<Tunnel> = {}): DeviceFact =>
  device('flannel.1', 5, {
    ...{ kind: 'vxlan', mtu },
    tunnel: {
      ...{ kind: 'vxlan', vni: 1, port: 8472, local: '192.168.1.2', remote: null },
      ...{ udpChecksum: true, sourcePorts: null, link: null, ...more },
    },
  });

const eth0 = device('eth0', 2, { addresses: ['192.168.1.2/24', 'fd00::2/64'] });
const pod = (mtu: number): DeviceFact => device('veth1', 9, { kind: 'veth', mtu });
const report = (...devices: DeviceFact[]) => exposure(place({ devices }));

test('a tunnel whose packets do not fit into the underlay, by its overhead', () => {
  const [found, ...more] = report(eth0, vxlan(1500), pod(1450)).exposures;
  assert.deepEqual(more, []);
  assert.deepEqual([found!.where.device, found!.confidence], ['flannel.1', 'likely']);
  assert.match(found!.why[0]!, /up to 1500 bytes and adds 50 \(vxlan\), but eth0 sends 1500/);
  assert.equal(found!.remedies[0]!.command, 'ip link set flannel.1 mtu 1450');
  // over IPv6 the outer header is 20 bytes longer
  const ipv6 = report(eth0, vxlan(1450, { local: 'fd00::2' }));
  assert.equal(ipv6.exposures[0]!.remedies[0]!.command, 'ip link set flannel.1 mtu 1430');
});

test('what fits is told with its figures', () => {
  const { exposures, unexposed } = report(eth0, vxlan(1450), pod(1450));
  assert.deepEqual(exposures, []);
  assert.match(unexposed[0]!.why[0]!, /1450 bytes and adds 50: that fits into the 1500 of eth0/);
  assert.match(report(eth0).unexposed[0]!.why[0]!, /no VXLAN or Geneve/);
});

test('pods’ devices that take larger packets than the tunnel need ICMP to come back', () => {
  const [found] = report(eth0, vxlan(1450), pod(1500)).exposures;
  assert.equal(found!.confidence, 'possible');
  assert.match(found!.why[0]!, /veth1, to which a pod is connected, takes packets of up to 1500/);
});

test('a tunnel bound to nothing goes by the default route; without one nobody can tell', () => {
  const free = vxlan(1500, { local: null });
  const wire = device('wlan0', 3, { mtu: 1400, routes: ['default via 10.0.0.1'] });
  assert.match(report(wire, free).exposures[0]!.why[0]!, /wlan0 sends 1400/);
  assert.match(report(free).unexposed[0]!.why[0]!, /could not be told/);
});
