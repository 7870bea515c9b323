import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reasonAt } from '../../src/explain/reading/drop-reason.js';

test('where a kernel tells no drop reason, the place does, if it drops for one reason alone', () => {
  assert.equal(reasonAt('nf_hook_slow+0x93'), 'NETFILTER_DROP');
  assert.equal(reasonAt('__udp4_lib_rcv+0x21b'), 'NOT_SPECIFIED');
  assert.equal(reasonAt('ipt_do_table+0x1 [ip_tables]'), 'NOT_SPECIFIED');
});
