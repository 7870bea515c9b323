import type { DeviceFact, NoSnatPath, SnatPath, Tunnel } from '../../event/fact.js';
import { hex } from '../../explain/wording.js';
import { atLeast, isDistribution } from '../../host/kernel.js';
import type { Exposure, ExposureReport, Place } from '../fault.js';
import type { Defect } from './defect.js';
import { quoteRule, remedies } from './remedies.js';

const VERDICT = 'double-snat';
const FIX = 'ea64d8d6c675';

/** A condition of the fault: it holds here, does not, or (null) cannot be known; with the sentence that says why. */
interface Condition {
  holds: boolean | null;
  text: string;
}

/**
 * A node is exposed when all of this comes together on a tunnel: NAT cannot keep the outer checksum
 * right (by the tunnel's checksums, its offload and the kernel), and the rules source-NAT the outer
 * packet so that it changes.
 */
export function exposure(place: Place): ExposureReport {
  const report: ExposureReport = { exposures: [], unexposed: [] };
  const tunnels = place.devices.filter(({ tunnel }) => tunnel);
  const where = (device: string | null) => ({ netns: place.netns, device });
  if (tunnels.length === 0)
    report.unexposed.push({
      verdict: VERDICT,
      where: where(null),
      why: ['there is no VXLAN or Geneve device here'],
    });
  for (const device of tunnels) {
    const { defect, checksum } = checksumCondition(device, device.tunnel!, place);
    const offload = offloadCondition(device);
    const paths = surest(place.rules?.paths.filter(({ tunnel }) => tunnel === device.name) ?? []);
    const rules = rulesCondition(device, place, paths);
    const conditions = [checksum, offload, rules];
    const broken = conditions.filter(({ holds }) => holds === false);
    if (broken.length > 0)
      report.unexposed.push({
        verdict: VERDICT,
        where: where(device.name),
        why: broken.map(({ text }) => text),
      });
    else report.exposures.push(exposed(device, defect, conditions, paths, where(device.name)));
  }
  return report;
}

/** The ways that need no assumption, where there are any. */
function surest(paths: readonly SnatPath[]): readonly SnatPath[] {
  const sure = paths.filter(({ assumes }) => assumes.length === 0);
  return sure.length > 0 ? sure : paths;
}

function exposed(
  device: DeviceFact,
  defect: Defect,
  conditions: readonly Condition[],
  paths: readonly SnatPath[],
  where: Exposure['where'],
): Exposure {
  const path = paths[0];
  const sure = conditions.every(({ holds }) => holds === true);
  const enough = {
    kubernetes: path !== undefined && paths.every(({ curedByClearing }) => curedByClearing),
    kernel: defect === 'legacy-zero-checksum',
  };
  return {
    verdict: VERDICT,
    defect,
    where,
    confidence: sure && path?.assumes.length === 0 ? 'proved' : 'possible',
    why: [
      ...conditions.map(({ text }) => text),
      ...(path ? pathText(path) : []),
      kubernetesText(enough.kubernetes, paths),
      enough.kernel
        ? `Upgrading the kernel is enough here: from 5.7 (stable 5.6.13, 5.4.41, 4.19.123, 4.14.181) on, NAT leaves a checksum of 0 alone (${FIX}).`
        : `Upgrading the kernel is not enough here: a tunnel with outer checksums is affected up to 6.18 at least; ${FIX} mends only tunnels without.`,
    ],
    enough,
    remedies: remedies(
      defect,
      {
        device: device.name,
        port: device.tunnel?.port ?? null,
        outerFamily: path?.outerFamily ?? (device.tunnel?.local?.includes(':') ? 'ip6' : 'ip'),
      },
      path ?? null,
    ),
  };
}

/** Can NAT keep the outer checksum right? */
function checksumCondition(
  { name }: DeviceFact,
  tunnel: Tunnel,
  { kernel, settings }: Place,
): { defect: Defect; checksum: Condition } {
  if (tunnel.external)
    return {
      defect: 'udpcsum-not-updated',
      checksum: {
        holds: null,
        text: `${name} takes tunnel parameters from each packet (external): whether it writes outer UDP checksums is not known.`,
      },
    };
  if (tunnel.udpChecksum)
    return {
      defect: 'udpcsum-not-updated',
      checksum: {
        holds: true,
        text: `${name} (${tunnel.kind} ${tunnel.vni}, port ${tunnel.port}) writes outer UDP checksums, which NAT does not update while the inner checksum is left to offload (every kernel up to 6.18).`,
      },
    };
  const legacy = (holds: boolean | null, text: string) => ({
    defect: 'legacy-zero-checksum' as const,
    checksum: { holds, text: `${name} writes no outer UDP checksum (0), ${text}` },
  });
  if (settings['nf_nat.udp_legacy_csum'] === 'Y')
    return legacy(true, 'which this kernel turns into 0xffff on NAT (nf_nat.udp_legacy_csum=Y).');
  if (hasZeroChecksumFix(kernel))
    return legacy(false, `which kernel ${kernel} leaves alone on NAT (since ${FIX}).`);
  // a distribution's kernel may carry the fix under an old version number
  return legacy(
    isDistribution(kernel) ? null : true,
    `which kernel ${kernel} turns into 0xffff on NAT${isDistribution(kernel) ? `, unless its distribution has taken in ${FIX}` : ` (before ${FIX})`}.`,
  );
}

/** Versions with ea64d8d6c675 "netfilter: nat: never update the UDP checksum when it's 0". */
export function hasZeroChecksumFix(kernel: string): boolean {
  if (atLeast(kernel, 5, 7)) return true;
  const stable: [number, number, number][] = [
    [5, 6, 13],
    [5, 4, 41],
    [4, 19, 123],
    [4, 14, 181],
  ];
  return stable.some(
    ([major, minor, patch]) =>
      kernel.startsWith(`${major}.${minor}.`) && atLeast(kernel, major, minor, patch),
  );
}

/** Does the inner packet enter the tunnel with its checksum unfinished (CHECKSUM_PARTIAL)? */
function offloadCondition({ name, offloads }: DeviceFact): Condition {
  const feature = 'tx-checksum-ip-generic';
  const on = offloads[feature];
  if (on === undefined)
    return { holds: null, text: `The offloads of ${name} could not be read (ethtool).` };
  return on
    ? {
        holds: true,
        text: `Checksum offload is on at ${name} (${feature}), so that a packet's inner checksum is still unfinished when the outer header meets NAT.`,
      }
    : {
        holds: false,
        text: `Checksum offload is off at ${name} (${feature}): inner checksums are finished before NAT, which then keeps the outer one right.`,
      };
}

/** Is the outer packet source NATed so that it changes? */
function rulesCondition(
  { name }: DeviceFact,
  { rules }: Place,
  paths: readonly SnatPath[],
): Condition {
  if (!rules) return { holds: null, text: 'The rules of this namespace could not be read.' };
  if (paths.length > 0) return { holds: true, text: pathCount(paths) };
  if (rules.unread.length > 0)
    return { holds: null, text: `Not all rules could be read: ${rules.unread.join('; ')}.` };
  const spared = rules.spared.find(({ tunnel }) => tunnel === name);
  return { holds: false, text: sparedText(name, spared) };
}

function pathCount([surest]: readonly SnatPath[]): string {
  const tunnel = surest?.tunnel ?? '';
  if (surest?.mark === 0) return `The rules source-NAT the outer packets of ${tunnel}.`;
  return surest?.first
    ? `The rules masquerade packets twice on their way through ${tunnel}: the inner one, and the outer one, because the mark survives.`
    : `The rules masquerade the outer packets of ${tunnel}, because a mark of the inner ones survives.`;
}

function sparedText(tunnel: string, spared: NoSnatPath | undefined): string {
  const rule = spared?.rule ? quoteRule(spared.rule) : 'a rule';
  switch (spared?.reason) {
    case 'mark-cleared':
      return `The mark is cleared before the inner packet is masqueraded (${rule}), so that the outer packet of ${tunnel} does not bear it and is masqueraded by no rule.`;
    case 'outer-unchanged':
      return `The outer packet of ${tunnel} is masqueraded again, but without --random-fully (${rule}): it keeps its port and its address.`;
    case 'outer-not-masqueraded':
      return `No rule source-NATs the outer packet of ${tunnel}.`;
    default:
      return `No rule source-NATs packets that leave through ${tunnel}.`;
  }
}

function pathText(path: SnatPath): string[] {
  const { mark, marking, first, second, changes, clearing, assumes } = path;
  const lines: string[] = [];
  if (mark !== 0)
    lines.push(
      marking[0]
        ? `Mark ${hex(mark)} is set by ${quoteRule(marking[0])}.`
        : `No rule here sets mark ${hex(mark)}, but rules look at it: a program may set it.`,
    );
  if (first) lines.push(`First SNAT, of the inner packet: ${quoteRule(first)}.`);
  if (clearing && path.masqueradeFirst)
    lines.push(
      `That rule stands before the chain that clears the mark (${quoteRule(clearing)}), which the packet therefore never reaches.`,
    );
  lines.push(
    `${first ? 'Second SNAT' : 'SNAT'}, of the outer packet: ${quoteRule(second)}; it changes the ${changes}.`,
  );
  if (assumes.length > 0)
    lines.push(
      `That is so if these conditions, which could not be judged, hold: ${assumes.join('; ')}.`,
    );
  return lines;
}

function kubernetesText(enough: boolean, paths: readonly SnatPath[]): string {
  if (enough)
    return 'Upgrading Kubernetes is enough here: kube-proxy from 1.16.13, 1.17.9 and 1.18.6 on clears the mark before it masquerades (kubernetes PR 92035), and no other way remains.';
  const other = paths.find(({ curedByClearing }) => !curedByClearing);
  if (!other) return 'Whether upgrading Kubernetes is enough here cannot be told from the rules.';
  if (other.mark === 0)
    return `Upgrading Kubernetes is not enough here: ${quoteRule(other.second)} asks for no mark.`;
  return other.first && other.masqueradeFirst
    ? `Upgrading Kubernetes is not enough here: ${quoteRule(other.first)} masquerades the packet before the chain that clears the mark is reached.`
    : 'Upgrading Kubernetes is not enough here: an earlier rule takes the packet out of POSTROUTING with its mark, before the chain that clears it is reached.';
}
