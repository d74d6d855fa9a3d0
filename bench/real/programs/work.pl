# Perl's part: hashes of strings, sorting, matching, nested lists. perl work.pl SCALE
use strict;
use warnings;

my $total = 0;
for my $turn (1 .. $ARGV[0]) {
    my %lengths;
    for my $i (1 .. 60000) { $lengths{$i * 7919 % 65521} .= "x" x ($i % 40); }
    my $text  = join ",", map { length $lengths{$_} } sort { $a <=> $b } keys %lengths;
    my @words = ($text =~ /(\d+)/g);
    $total += $_ for @words;
    (my $swapped = $text) =~ s/(\d)(\d)/$2$1/g;
    my @rows = map { { id => $_, list => [1 .. $_ % 20], name => "n$_" } } 1 .. 20000;
    $total += scalar @{ $_->{list} } + length $_->{name} for @rows;
    $total += length $swapped;
}
print "$total\n";
