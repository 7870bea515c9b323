import type { DeviceFact } from '../../event/fact.js';
import { intersect, prefix } from '../../host/rules/ranges.js';
import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';
import { remedies } from './remedies.js';

const VERDICT = 'reply-not-translated';
const SETTING = 'net.bridge.bridge-nf-call-iptables';

/**
 * A namespace is exposed where it does destination NAT and bridges without netfilter: the answer of a
 * backend to a client on the same bridge then never meets the NAT that its request went through.
 */
export function exposure(place: Place): ExposureReport {
  const { devices, rules, settings, netns } = place;
  const bridges = devices
    .map((bridge) => ({ bridge, ports: devices.filter((d) => d.master === bridge.ifindex) }))
    .filter(({ bridge, ports }) => bridge.kind === 'bridge' && ports.length > 1);
  if (bridges.length === 0)
    return notExposedTo(VERDICT, place, 'no bridge here has two ports, between which answers pass');
  if (settings[SETTING] === '1')
    return notExposedTo(VERDICT, place, `bridged packets pass netfilter (${SETTING}=1)`);
  const destinations = rules?.destinations;
  if (destinations?.length === 0)
    return notExposedTo(VERDICT, place, 'no rule does destination NAT here');
  const off =
    settings[SETTING] === undefined
      ? 'br_netfilter is not loaded, so that bridged packets pass no rule and no NAT'
      : `${SETTING} is 0, so that bridged packets pass no rule and no NAT`;
  return onlyExposed(
    ...bridges.map(({ bridge, ports }) => {
      const backend = destinations?.find((address) => isOn(bridge, address));
      return exposedTo(VERDICT, place, {
        device: bridge.name,
        confidence: backend === undefined ? 'possible' : 'likely',
        why: [
          `${bridge.name} bridges ${ports.length} ports, and ${off}.`,
          destinations
            ? `Rules do destination NAT to ${backend === undefined ? `${destinations.length} addresses, none of them in a network of ${bridge.name} itself` : `${backend}, which is in a network of ${bridge.name}`}.`
            : 'Whether rules do destination NAT here could not be read.',
          'A client on the same bridge then gets the answer from the backend’s own address, unless its request was masqueraded.',
        ],
        remedies: remedies('bridged', netns),
      });
    }),
  );
}

/** Is the address in one of the bridge's own networks? */
function isOn({ addresses }: DeviceFact, address: string): boolean {
  const one = prefix(address);
  return addresses.some((text) => {
    const network = prefix(text);
    return (
      network?.family === one?.family && intersect(network?.set ?? [], one?.set ?? []).length > 0
    );
  });
}
