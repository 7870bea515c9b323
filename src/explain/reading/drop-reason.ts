/**
 * Functions that free a packet for one reason alone, with that reason's name in later kernels:
 * nf_hook_slow does for a verdict of NF_DROP (net/netfilter/core.c, 5.10).
 */
const REASONS: ReadonlyMap<string, string> = new Map([['nf_hook_slow', 'NETFILTER_DROP']]);

/**
 * Why a packet was dropped at a place (`function+0x1f [module]`), where the kernel tells no reasons:
 * before 5.17. NOT_SPECIFIED when the place alone does not tell.
 */
export function reasonAt(symbol: string): string {
  const [name = ''] = symbol.split('+');
  return REASONS.get(name) ?? 'NOT_SPECIFIED';
}
