import type { DatapathFact } from '../event/fact.js';

/** Script for readSections; loads no module. What nft has is in the sections of RULES_SCRIPT. */
export const DATAPATH_SCRIPT = `
section tables4; cat /proc/net/ip_tables_names 2>/dev/null
section tables6; cat /proc/net/ip6_tables_names 2>/dev/null
section ipvs; tail -n +4 /proc/net/ip_vs 2>/dev/null
section cilium; ls -d /sys/class/net/cilium_* 2>/dev/null
section bridge; cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null
`;

/** From the sections of DATAPATH_SCRIPT and RULES_SCRIPT. */
export function parseDatapath(netns: number, sections: ReadonlyMap<string, string>): DatapathFact {
  const lines = (name: string): string[] =>
    (sections.get(name) ?? '').split('\n').filter((line) => line.trim());
  const bridge = lines('bridge')[0];
  const ruleset = sections.get('nft') ?? '';
  return {
    fact: 'datapath',
    netns,
    iptablesLegacy: [
      ...lines('tables4').map((table) => `iptables ${table}`),
      ...lines('tables6').map((table) => `ip6tables ${table}`),
    ],
    nft: [...ruleset.matchAll(/\{"table": *\{"family": *"(\w+)", *"name": *"([^"]+)"/g)].map(
      ([, family, name]) => `${family} ${name}`,
    ),
    ipvs: lines('ipvs').length > 0,
    cilium: lines('cilium').length > 0,
    bridgeNetfilter: bridge === undefined ? null : bridge === '1',
    flowtables: /\{"flowtable": *\{/.test(ruleset),
  };
}
