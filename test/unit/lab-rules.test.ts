import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { kubeProxyRules, type KubeProxy } from '../../src/lab/kube-proxy.js';

const options: KubeProxy = {
  backend: 'iptables',
  family: 'ipv4',
  pods: '10.244.0.0/16',
  services: [
    {
      name: 'web',
      address: '10.96.0.10',
      port: 80,
      nodePort: 30010,
      backend: { address: '10.244.2.10', port: 8080 },
      marked: 'beyond the pods',
    },
  ],
  mark: 0x8000,
  randomFully: true,
  xorMark: false,
  masqueradeFirst: false,
};

describe("kube-proxy's rules", () => {
  it('mark what comes from beyond the pods, and masquerade by that mark', () => {
    const rules = kubeProxyRules(options);
    assert.match(rules, /KUBE-SERVICES ! -s 10\.244\.0\.0\/16 -d 10\.96\.0\.10 .* KUBE-MARK-MASQ/);
    assert.match(rules, /-m mark --mark 0x8000\/0x8000 -j MASQUERADE --random-fully/);
  });

  it('clear the mark before masquerading when told so', () => {
    const rules = kubeProxyRules({ ...options, xorMark: true });
    assert.ok(rules.indexOf('--xor-mark 0x8000') < rules.indexOf('-j MASQUERADE --random-fully'));
    assert.ok(rules.includes('--xor-mark'));
  });

  it("stand behind a CNI's own when that masquerades first", () => {
    const rules = kubeProxyRules({ ...options, masqueradeFirst: true });
    const cni = rules.indexOf('-j CNI-POSTROUTING');
    assert.ok(cni > 0 && cni < rules.indexOf('-j KUBE-POSTROUTING'));
  });

  it('never mark for a Service that nobody is masqueraded for', () => {
    const [web] = options.services;
    assert.ok(web);
    for (const backend of ['iptables', 'nft'] as const) {
      const rules = kubeProxyRules({
        ...options,
        backend,
        services: [{ ...web, marked: 'nobody' }],
      });
      const marking = rules
        .split('\n')
        .filter((line) => /(-j|jump) (KUBE-MARK-MASQ|mark-for-masquerade)/.test(line));
      assert.equal(marking.length, 1, 'only the hairpin rule: a pod that asks itself');
      assert.match(marking[0] ?? '', /10\.244\.2\.10/);
    }
  });

  it('are loaded by the tool of their backend and family', () => {
    const command = (part: Partial<KubeProxy>) =>
      kubeProxyRules({ ...options, ...part }).split(' ')[0];
    assert.equal(command({}), 'iptables-restore');
    assert.equal(
      command({ backend: 'iptables-legacy', family: 'ipv6' }),
      'ip6tables-legacy-restore',
    );
    assert.equal(command({ backend: 'iptables-nft' }), 'iptables-nft-restore');
    assert.equal(command({ backend: 'nft' }), 'nft');
  });

  it('write IPv6 backends in brackets', () => {
    const [web] = options.services;
    assert.ok(web);
    const v6 = { ...web, address: 'fd00::1', backend: { address: 'fd00::2', port: 80 } };
    for (const backend of ['iptables', 'nft'] as const) {
      const rules = kubeProxyRules({ ...options, backend, family: 'ipv6', services: [v6] });
      assert.ok(rules.includes('[fd00::2]:80'));
    }
  });
});
