/** A change of one source file: `find` stands there exactly once. */
export interface Edit {
  file: string;
  find: string;
  replace: string;
}

/** The switches that the edits make, as the kernel's command line names them. */
export const SWITCHES = ['nf_nat.udp_legacy_csum', 'nf_conntrack.drop_clashes'] as const;

/**
 * What turns Debian's kernel into the one with the old faults, each behind a switch that is off
 * unless the kernel's command line (or /sys/module/…/parameters) says otherwise.
 */
export const EDITS: readonly Edit[] = [
  // nf_nat.udp_legacy_csum: NAT "updates" an outer UDP checksum of 0 (= none) when the packet's inner
  // checksum is still to be computed, as before ea64d8d6c675 (5.7)
  {
    file: 'net/netfilter/nf_nat_proto.c',
    find: 'static bool udp_manip_pkt(struct sk_buff *skb,',
    replace: `static bool udp_legacy_csum;
module_param(udp_legacy_csum, bool, 0644);

static bool udp_manip_pkt(struct sk_buff *skb,`,
  },
  {
    file: 'net/netfilter/nf_nat_proto.c',
    find: '__udp_manip_pkt(skb, iphdroff, hdr, tuple, maniptype, !!hdr->check);',
    replace: `__udp_manip_pkt(skb, iphdroff, hdr, tuple, maniptype,
			hdr->check ||
			(udp_legacy_csum && skb->ip_summed == CHECKSUM_PARTIAL));`,
  },
  {
    file: 'net/netfilter/nf_nat_proto.c',
    find: '#include <linux/init.h>\n',
    replace: '#include <linux/init.h>\n#include <linux/moduleparam.h>\n',
  },
  // nf_conntrack.drop_clashes: of two entries of one flow made at once the second is never kept nor
  // merged, its packet is dropped, as before ed07d9a021df (4.19)
  {
    file: 'net/netfilter/nf_conntrack_core.c',
    find: 'static __cold noinline int\nnf_ct_resolve_clash(struct sk_buff *skb,',
    replace: `static bool drop_clashes;
module_param(drop_clashes, bool, 0644);

static __cold noinline int
nf_ct_resolve_clash(struct sk_buff *skb,`,
  },
  {
    file: 'net/netfilter/nf_conntrack_core.c',
    find: '\tif (!l4proto->allow_clash)\n\t\tgoto drop;',
    replace: '\tif (!l4proto->allow_clash || drop_clashes)\n\t\tgoto drop;',
  },
];
