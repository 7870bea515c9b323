import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { explain } from '../../src/cli/main-path.js';
import { openFile } from '../../src/session/file-reader.js';

/** Recorded on 5.10: what is found there, the reason of the drop that it rests on, and why that is believed. */
const RECORDED = [
  ['checksum-offload', 'proved', 'TCP_CSUM', null],
  ['no-listener', 'likely', 'NO_SOCKET', /^tcp_v4_rcv\+\w+, and from the RST that left before$/],
  ['policy-drop', 'proved', 'NETFILTER_DROP', null],
  [
    'receive-buffer-full',
    'likely',
    'SOCKET_RCVBUFF',
    /^udp_queue_rcv_one_skb\+\w+, and from Udp\.RcvbufErrors, which rose by \d+ around then$/,
  ],
  [
    'reverse-path-filter',
    'likely',
    'IP_RPFILTER',
    /^ip_rcv_finish_core\S+, and from TcpExt\.IPReversePathFilter, which rose by \d+ around then$/,
  ],
  ['tunnel-mtu', 'proved', 'PKT_TOO_BIG', null],
] as const;

describe('where a kernel tells no drop reasons, the place does, and what else it left', () => {
  for (const [verdict, confidence, reason, doubt] of RECORDED)
    test(verdict, async () => {
      const path = new URL(`../../../test/unit/linux-5.10/${verdict}.skbw`, import.meta.url);
      const file = await openFile(fileURLToPath(path));
      const { findings } = (await explain([file])).report;
      await file.close();
      assert.ok(findings.length > 0);
      for (const finding of findings) {
        assert.equal(finding.verdict, verdict);
        assert.equal(finding.confidence, confidence);
        const drop = finding.attempts.find(({ dropReason }) => dropReason !== null);
        assert.equal(drop?.dropReason, reason);
        if (doubt === null) assert.deepEqual(finding.loweredFor, []);
        else {
          const [text = '', ...others] = finding.loweredFor;
          assert.deepEqual(others, []);
          const [, from = ''] = / is taken from the place, (.*)$/.exec(text) ?? [];
          assert.match(from, doubt);
        }
      }
    });
});
