import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Access, checkListen, parseListen } from '../../src/stream/access.js';

const visitor = (headers: Record<string, string>, query = '') => ({
  headers: { host: '127.0.0.1:6363', ...headers },
  query: new URLSearchParams(query),
});
const status = (access: Access, headers: Record<string, string>, query = '') =>
  access.refuse(visitor(headers, query))?.status ?? 200;

describe('the address to listen on', () => {
  test('is an address with a port, or one of them', () => {
    assert.deepEqual(parseListen('127.0.0.1:80'), { host: '127.0.0.1', port: 80 });
    assert.deepEqual(parseListen('[::1]:80'), { host: '::1', port: 80 });
    assert.deepEqual(parseListen('10.0.0.1'), { host: '10.0.0.1', port: 6363 });
    assert.deepEqual(parseListen(':0'), { host: '127.0.0.1', port: 0 });
    for (const text of ['example.org:80', '1.2.3:80', '127.0.0.1:99999', '::1:80', 'x'])
      assert.throws(() => parseListen(text), { code: 'bad-option' }, text);
  });

  test('is beyond loopback only with a token', () => {
    for (const host of ['127.0.0.1', '127.1.2.3', '::1', 'localhost'])
      checkListen({ host, port: 1 }, null);
    for (const host of ['0.0.0.0', '::', '10.0.0.1', '::ffff:10.0.0.1']) {
      assert.throws(() => checkListen({ host, port: 1 }, null), {
        code: 'bad-option',
        exitCode: 2,
      });
      checkListen({ host, port: 1 }, 'secret');
    }
  });
});

describe('without a token', () => {
  const access = new Access(null, ['https://allowed.example']);

  test('programs and our own page come in', () => {
    assert.equal(status(access, {}), 200);
    assert.equal(status(access, { origin: 'http://127.0.0.1:6363' }), 200);
    // behind ssh -L or kubectl port-forward
    assert.equal(status(access, { host: 'localhost:8080', origin: 'http://localhost:8080' }), 200);
    assert.equal(status(access, { host: '[::1]:6363', origin: 'http://[::1]:6363' }), 200);
    assert.equal(status(access, { origin: 'https://allowed.example' }), 200);
  });

  test("other sites' pages do not, also by a name that was pointed here", () => {
    for (const origin of [
      'https://evil.example',
      'null',
      'http://127.0.0.1',
      'http://localhost:6363',
    ])
      assert.equal(status(access, { origin }), 403, origin);
    for (const host of ['evil.example:6363', '127.0.0.1.evil.example', 'localhost.evil', ''])
      assert.equal(status(access, { host, origin: `http://${host}` }), 403, host);
  });
});

describe('with a token', () => {
  const access = new Access('s3cret');

  test('whoever has it comes in, however it is brought', () => {
    assert.equal(status(access, { authorization: 'Bearer s3cret' }), 200);
    assert.equal(status(access, {}, 'token=s3cret'), 200);
    const carrier = `skbwhy.token.${Buffer.from('s3cret').toString('base64url')}`;
    assert.equal(status(access, { 'sec-websocket-protocol': `skbwhy.v1, ${carrier}` }), 200);
    assert.equal(status(access, { host: 'proxy.example', authorization: 'bearer s3cret' }), 200);
  });

  test('nobody else does', () => {
    assert.equal(status(access, {}), 401);
    for (const token of ['', 'S3cret', 's3cret ', 's3cre', 's3crets', 'x'.repeat(10_000)])
      assert.equal(status(access, {}, `token=${encodeURIComponent(token)}`), 401, token);
    assert.equal(status(access, { authorization: 'Basic s3cret' }), 401);
    assert.equal(status(access, { origin: 'https://evil.example' }, 'token=s3cret'), 403);
  });
});
