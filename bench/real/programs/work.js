// Node's part: JSON, maps, strings, buffers outside of V8's heap, compression, hashes. node work.js
// SCALE
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');

const digest = crypto.createHash('sha256');

function documents(n) {
  const data = [];
  for (let i = 0; i < n; i++) data.push({id: i, name: 'n'.repeat(i % 50), nested: {x: i / 3, list: [i, String(i), null]}});
  const text = JSON.stringify(data);
  digest.update(text);
  if (JSON.stringify(JSON.parse(text)) !== text) throw new Error('documents differ');
}

function buffers(n) {
  const kept = new Map();
  for (let i = 0; i < n; i++) {
    kept.set(i % 509, Buffer.alloc(4096 + (i * 7919) % 60000, i & 255));
    if (i % 16 === 0) digest.update(kept.get((i * 31) % 509) || 'none');
  }
}

function compress(n) {
  for (let i = 0; i < n; i++) {
    const text = Buffer.from(String(i).repeat(1000 + i * 10));
    const packed = zlib.deflateSync(text, {level: 1});
    if (!zlib.inflateSync(packed).equals(text)) throw new Error('compression');
    digest.update(packed);
  }
}

function hashes(n) {
  for (let i = 0; i < n; i++) digest.update(crypto.createHash('md5').update('x' + i).digest());
}

for (let turn = 0; turn < Number(process.argv[2]); turn++) {
  documents(15000);
  buffers(2000);
  compress(60);
  hashes(8000);
}
console.log(digest.digest('hex'));
