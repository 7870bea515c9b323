import type { ExposureReport, Place } from '../fault.js';

const VERDICT = 'reverse-path-filter';

/**
 * A namespace is exposed when rp_filter is strict on a device and packets are routed to several: what
 * comes by one while the route back is another is dropped. Whether any does so only packets tell.
 */
export function exposure(place: Place): ExposureReport {
  const all = Number(place.settings['net.ipv4.conf.all.rp_filter'] ?? 0);
  const here = (device: string | null) => ({ netns: place.netns, device });
  const strict = place.devices.filter(({ rpFilter = 0 }) => Math.max(all, rpFilter) === 1);
  if (strict.length === 0)
    return {
      exposures: [],
      unexposed: [
        {
          verdict: VERDICT,
          where: here(null),
          why: ['rp_filter is strict (1) on none of its devices'],
        },
      ],
    };
  const routed = place.devices.filter(({ routes = [] }) => routes.some((text) => !/:/.test(text)));
  const uplinks = routed.filter(({ routes = [] }) =>
    routes.some((text) => / via |^default/.test(text)),
  );
  if (uplinks.length < 2)
    return {
      exposures: [],
      unexposed: [
        {
          verdict: VERDICT,
          where: here(null),
          why: [
            `rp_filter is strict on ${names(strict)}, but routes to other networks lead through ${uplinks.length === 0 ? 'no device' : `${names(uplinks)} alone`}: what comes by it goes back by it`,
          ],
        },
      ],
    };
  const devices = uplinks.filter((device) => strict.includes(device));
  return {
    exposures: devices.map((device) => ({
      verdict: VERDICT,
      where: here(device.name),
      confidence: 'possible',
      why: [
        `rp_filter of ${device.name} is strict: the larger of its own (${device.rpFilter ?? 'not known'}) and that of all (${all}) is 1.`,
        `Other networks are routed through ${names(uplinks)}: a packet that comes by ${device.name} from a source that is routed through another of them is dropped. Whether any does so is not known.`,
      ],
      enough: { kubernetes: false, kernel: false },
      remedies: [
        {
          what: 'where routes are asymmetric on purpose, let the filter be loose on this device',
          command: `sysctl -w net.ipv4.conf.${device.name}.rp_filter=2`,
          source:
            'Documentation/networking/ip-sysctl.rst: the maximum of conf/{all,interface} is used',
        },
      ],
    })),
    unexposed: [],
  };
}

const names = (devices: readonly { name: string }[]): string =>
  devices.map(({ name }) => name).join(', ');
