-- SQLite's part, in memory: rows of 40 to 340 bytes, an index, a join, grouping, deletion, vacuum. SCALE is put in by works.py.
create table t(a integer primary key, b text, c blob);
with recursive n(x) as (select 1 union all select x + 1 from n where x < 20000 * SCALE)
    insert into t select x, printf('%d-%s', x * 7919 % 30011, substr('abcdefghijklmnopqrstuvwxyz', x % 26)), zeroblob(x % 300) from n;
create index i on t(b);
select count(*), sum(length(c)), min(b), max(b) from t;
select count(*), sum(n), max(g) from (select b as g, count(*) as n from t group by substr(b, 1, 4));
select group_concat(b, '|') from (select b from t where a % 997 = 0 order by b desc);
update t set c = zeroblob(a % 500) where a % 5 = 0;
delete from t where a % 3 = 0;
vacuum;
select count(*) from t join t as u on t.b = u.b where t.a % 4 = 0;
select count(*), sum(length(c)) from t;
