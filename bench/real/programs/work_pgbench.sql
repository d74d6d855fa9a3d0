-- One transaction of pgbench's for PostgreSQL's part: a look-up, a change, and a query that sorts and groups.
\set aid random(1, 100000)
\set low random(1, 90000)
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
select abalance, count(*), string_agg(aid::text, ',') from pgbench_accounts where aid between :low and :low + 500 group by abalance order by 1;
end;
