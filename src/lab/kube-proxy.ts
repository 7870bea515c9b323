/** The rules that kube-proxy keeps on every node, as far as they matter here. */
export interface Service {
  /** short name, for chains and comments */
  name: string;
  /** ClusterIP */
  address: string;
  port: number;
  /** tcp if not told */
  protocol?: 'tcp' | 'udp';
  nodePort: number;
  backend: { address: string; port: number };
  /**
   * whose packets get the mark for masquerading: of 'nobody', of clients 'beyond the pods' (with
   * --cluster-cidr) or of 'everybody' (--masquerade-all)
   */
  marked: 'nobody' | 'beyond the pods' | 'everybody';
}

export interface KubeProxy {
  backend: 'iptables' | 'iptables-legacy' | 'iptables-nft' | 'nft';
  family: 'ipv4' | 'ipv6';
  /** network of all pods; null: they are not of this family */
  pods: string | null;
  services: readonly Service[];
  /** the mark for masquerading (--iptables-masquerade-bit) */
  mark: number;
  randomFully: boolean;
  /** clears the mark before masquerading: kubernetes PR 92035 */
  xorMark: boolean;
  /** a CNI's own rule masquerades what goes from a node to pods, before kube-proxy's chain is reached */
  masqueradeFirst: boolean;
}

/** The shell command that loads the rules, in the namespace of a node. */
export function kubeProxyRules(options: KubeProxy): string {
  const text = options.backend === 'nft' ? nft(options) : iptables(options);
  const load = options.backend === 'nft' ? 'nft -f -' : `${restore(options)} -w 5`;
  return `${load} <<'RULES'\n${text}\nRULES`;
}

function restore({ backend, family }: KubeProxy): string {
  return `${backend.replace('iptables', family === 'ipv6' ? 'ip6tables' : 'iptables')}-restore`;
}

function iptables({
  pods,
  services,
  mark,
  randomFully,
  xorMark,
  masqueradeFirst,
}: KubeProxy): string {
  const bit = `0x${mark.toString(16)}`;
  const masquerade = randomFully ? 'MASQUERADE --random-fully' : 'MASQUERADE';
  const chains = [
    ...['KUBE-SERVICES', 'KUBE-NODEPORTS', 'KUBE-POSTROUTING', 'KUBE-MARK-MASQ'],
    ...(masqueradeFirst && pods ? ['CNI-POSTROUTING'] : []),
    ...services.flatMap(({ name }) => [`KUBE-SVC-${name}`, `KUBE-SEP-${name}`, `KUBE-EXT-${name}`]),
  ];
  return [
    '*nat',
    ...chains.map((chain) => `:${chain} - [0:0]`),
    '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    ...(masqueradeFirst && pods
      ? [
          '-A POSTROUTING -m comment --comment "cni masquerade" -j CNI-POSTROUTING',
          `-A CNI-POSTROUTING ! -s ${pods} -d ${pods} -j ${masquerade}`,
        ]
      : []),
    '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    `-A KUBE-MARK-MASQ -j MARK --or-mark ${bit}`,
    ...(xorMark
      ? [
          `-A KUBE-POSTROUTING -m mark ! --mark ${bit}/${bit} -j RETURN`,
          `-A KUBE-POSTROUTING -j MARK --xor-mark ${bit}`,
          `-A KUBE-POSTROUTING -j ${masquerade}`,
        ]
      : [`-A KUBE-POSTROUTING -m mark --mark ${bit}/${bit} -j ${masquerade}`]),
    ...services.flatMap(({ name, address, port, protocol = 'tcp', nodePort, backend, marked }) => {
      const transport = `-p ${protocol} -m ${protocol}`;
      const to = `-d ${address} ${transport} --dport ${port} -m comment --comment "default/${name}"`;
      const from = marked === 'beyond the pods' ? `! -s ${pods} ` : '';
      const mark = marked === 'nobody' ? [] : [`-A KUBE-SERVICES ${from}${to} -j KUBE-MARK-MASQ`];
      return [
        ...mark,
        `-A KUBE-SERVICES ${to} -j KUBE-SVC-${name}`,
        `-A KUBE-NODEPORTS ${transport} --dport ${nodePort} -j KUBE-EXT-${name}`,
        ...(marked === 'nobody' ? [] : [`-A KUBE-EXT-${name} -j KUBE-MARK-MASQ`]),
        `-A KUBE-EXT-${name} -j KUBE-SVC-${name}`,
        `-A KUBE-SVC-${name} -j KUBE-SEP-${name}`,
        `-A KUBE-SEP-${name} -s ${backend.address} -j KUBE-MARK-MASQ`,
        `-A KUBE-SEP-${name} ${transport} -j DNAT --to-destination ${hostPort(backend)}`,
      ];
    }),
    '-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
    'COMMIT',
  ].join('\n');
}

function nft({
  family,
  pods,
  services,
  mark,
  randomFully,
  xorMark,
  masqueradeFirst,
}: KubeProxy): string {
  const ip = family === 'ipv6' ? 'ip6' : 'ip';
  const bit = `0x${mark.toString(16)}`;
  const masquerade = randomFully ? 'masquerade fully-random' : 'masquerade';
  return [
    ...(masqueradeFirst && pods
      ? [
          `table ${ip} cni {`,
          '  chain postrouting {',
          '    type nat hook postrouting priority srcnat - 1;',
          `    ${ip} saddr != ${pods} ${ip} daddr ${pods} ${masquerade}`,
          '  }',
          '}',
        ]
      : []),
    `table ${ip} kube-proxy {`,
    `  chain mark-for-masquerade { meta mark set meta mark or ${bit}; }`,
    '  chain masquerading {',
    ...(xorMark
      ? [
          `    meta mark & ${bit} != ${bit} return`,
          `    meta mark set meta mark xor ${bit}`,
          `    ${masquerade}`,
        ]
      : [`    meta mark & ${bit} == ${bit} ${masquerade}`]),
    '  }',
    ...services.flatMap(({ name, backend, protocol = 'tcp' }) => [
      `  chain service-${name} {`,
      `    ${ip} saddr ${backend.address} jump mark-for-masquerade`,
      `    meta l4proto ${protocol} dnat to ${hostPort(backend)}`,
      '  }',
    ]),
    '  chain services {',
    ...services.flatMap(({ name, address, port, protocol = 'tcp', nodePort, marked }) => {
      const to = `${ip} daddr ${address} ${protocol} dport ${port}`;
      const from = marked === 'beyond the pods' ? `${ip} saddr != ${pods} ` : '';
      const atNode = `fib daddr type local ${protocol} dport ${nodePort}`;
      const mark = [
        `    ${from}${to} jump mark-for-masquerade`,
        `    ${atNode} jump mark-for-masquerade`,
      ];
      return [
        ...(marked === 'nobody' ? [] : mark),
        `    ${to} goto service-${name}`,
        `    ${atNode} goto service-${name}`,
      ];
    }),
    '  }',
    '  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }',
    '  chain nat-output { type nat hook output priority -100; jump services; }',
    '  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }',
    '}',
  ].join('\n');
}

function hostPort({ address, port }: { address: string; port: number }): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
