// Buffers, JSON, compression (which runs on threads); prints a checksum.
'use strict';
const crypto = require('crypto');
const zlib = require('zlib');

const rows = [];
for (let i = 0; i < 3000; i++) {
    rows.push({number: i, text: 'x'.repeat(i % 300), list: Array.from({length: i % 20}, (_, k) => k)});
}
const text = Buffer.from(JSON.stringify(rows));
let left = 4;
const hash = crypto.createHash('sha256');
for (let i = 0; i < 4; i++) {
    zlib.gzip(text, (error, packed) => {
        if (error) throw error;
        const whole = zlib.gunzipSync(packed);
        if (!whole.equals(text)) throw new Error('what was unpacked differs');
        if (--left === 0) console.log(hash.update(whole).digest('hex'));
    });
}
