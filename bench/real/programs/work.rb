# Ruby's part: strings, arrays, hashes, symbols, big numbers. ruby work.rb SCALE
require 'json'

total = 0
ARGV[0].to_i.times do
  rows = (0...15_000).map { |i| { 'id' => i, 'name' => 'n' * (i % 60), 'list' => (0...(i % 12)).to_a } }
  text = JSON.generate(rows)
  raise 'differs' unless JSON.parse(text) == rows
  words = (0...60_000).map { |i| (i * 7919 % 100_003).to_s + '-' * (i % 30) }.uniq.sort
  groups = words.group_by { |w| w[0, 2] }
  total += text.size + words.join(',').size + groups.sum { |k, v| k.size * v.size }
  total += (1..400).inject(:*).to_s.size
end
puts total
