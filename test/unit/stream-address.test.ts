import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseAddress } from '../../src/stream/client.js';

test('a daemon’s address may be given in many ways', () => {
  for (const [given, url] of [
    ['127.0.0.1', 'ws://127.0.0.1:6363/stream'],
    ['127.0.0.1:80', 'ws://127.0.0.1/stream'],
    ['::1', 'ws://[::1]:6363/stream'],
    ['[::1]:7000', 'ws://[::1]:7000/stream'],
    ['node-a', 'ws://node-a:6363/stream'],
    ['http://127.0.0.1:6363', 'ws://127.0.0.1:6363/stream'],
    ['http://127.0.0.1:6363/', 'ws://127.0.0.1:6363/stream'],
    ['ws://node-a:7000/stream', 'ws://node-a:7000/stream'],
    ['https://proxy.example/skbwhy', 'wss://proxy.example/skbwhy/stream'],
  ] as const)
    assert.equal(parseAddress(given, null).url.href, url, given);
  const { url, token } = parseAddress('http://node-a/?token=s3cret', null);
  assert.equal(url.href, 'ws://node-a/stream');
  assert.equal(token, 's3cret');
  for (const bad of ['', 'ftp://node-a', 'http://', 'a b'])
    assert.throws(() => parseAddress(bad, null), { code: 'bad-option' }, bad);
});
