#!/usr/bin/perl
# Writes src/text/unicode_scripts_table.inc: ranges of characters and the number of their script, for the
# characters of Unicode 9.0, the version SentencePiece's script splitting was fixed at.
#   perl tools/make_unicode_scripts.pl > src/text/unicode_scripts_table.inc
use strict;
use warnings;
use Unicode::UCD qw(charscript);

my (%number, @ranges);
my $present = qr/\p{Present_In: 9.0}/;
for my $c (0 .. 0x10FFFF) {
  next if $c >= 0xD800 && $c <= 0xDFFF;
  next unless chr($c) =~ $present;
  my $script = charscript($c);
  next if !defined $script || $script eq 'Unknown';
  $script = 'Han' if $script eq 'Hiragana' || $script eq 'Katakana' || $c == 0x30FC;
  next if $c == 0x20;
  my $id = $number{$script} //= 1 + keys %number;
  if (@ranges && $ranges[-1][1] == $c - 1 && $ranges[-1][2] == $id) {
    $ranges[-1][1] = $c;
  } else {
    push @ranges, [$c, $c, $id];
  }
}
print "// Written by tools/make_unicode_scripts.pl: first character, last character, script.\n";
my $line = '';
for my $range (@ranges) {
  my $item = sprintf('{0x%X, 0x%X, %d},', @$range);
  if (length($line) + length($item) + 1 > 110) {
    print "$line\n";
    $line = '';
  }
  $line .= ($line eq '' ? '' : ' ') . $item;
}
print "$line\n";
