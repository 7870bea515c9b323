import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';

const VERDICT = 'stale-backend';
/** udp_timeouts, net/netfilter/nf_conntrack_proto_udp.c: UDP_CT_UNREPLIED, UDP_CT_REPLIED; s */
const TIMEOUTS = {
  'net.netfilter.nf_conntrack_udp_timeout': 30,
  'net.netfilter.nf_conntrack_udp_timeout_stream': 120,
} as const;

/**
 * A UDP entry keeps leading to a backend that is gone until it expires. Whether whoever writes the
 * rules deletes it, no setting says: only timeouts beyond the kernel's own are an exposure.
 */
export function exposure(place: Place): ExposureReport {
  const services = place.rules?.dnsServices;
  if (services?.length === 0)
    return notExposedTo(VERDICT, place, 'no rule does destination NAT for DNS (port 53) here');
  const longer = Object.entries(TIMEOUTS).flatMap(([name, usual]) => {
    const value = Number(place.settings[name] ?? NaN);
    return value > usual ? [{ name, value, usual }] : [];
  });
  if (longer.length === 0)
    return notExposedTo(
      VERDICT,
      place,
      'UDP entries expire after 30 s, 120 s if answered, unless a socket keeps asking through one',
    );
  return onlyExposed(
    exposedTo(VERDICT, place, {
      confidence: 'possible',
      why: [
        ...longer.map(
          ({ name, value, usual }) =>
            `${name} is ${value} s (the kernel’s own: ${usual} s): an entry whose backend is gone leads there for that long, unless it is deleted.`,
        ),
        services
          ? `Rules do destination NAT for DNS at ${services.join(', ')}.`
          : 'Whether rules do destination NAT for DNS could not be read.',
      ],
      remedies: longer.map(({ name, usual }) => ({
        what: 'let entries expire as soon as the kernel means them to',
        command: `sysctl -w ${name}=${usual}`,
        source: 'Documentation/networking/nf_conntrack-sysctl.rst',
      })),
    }),
  );
}
